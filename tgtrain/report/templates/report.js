"use strict";
// The page is complete without this script. It reads values off charts and the map with the pointer, and sorts tables.
(() => {
  const format = (value, unit) => {
    if (value === null) return "–";
    if (unit === " %") return value.toFixed(1) + unit;
    const size = Math.abs(value);
    const text = size >= 1000 ? Math.round(value).toLocaleString("en")
      : size && size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
    return text + unit;
  };
  const follow = (element, move, leave) => {
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerdown", move);
    element.addEventListener("pointerleave", leave);
  };
  const position = ([start, end, low, high], value, scale) =>
    start + ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (end - start);
  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle; else high = middle;
    }
    return step - steps[low] <= steps[high] - step ? low : high;
  };

  for (const figure of document.querySelectorAll("figure.chart")) {
    const { x, y, log, unit, per_epoch, lines } = JSON.parse(figure.dataset.readout);
    const plot = figure.querySelector(".plot");
    const layer = plot.querySelector("svg");
    const at = figure.querySelector(".at");
    const texts = [...figure.querySelectorAll(".legend b")];
    const last = [at, ...texts].map((element) => element.textContent);
    const scale = log ? Math.log : Number;
    follow(plot, (event) => {
      const box = plot.getBoundingClientRect();
      const pointer = position([x[2], x[3], x[0], x[1]], ((event.clientX - box.left) / box.width) * layer.viewBox.baseVal.width, Number);
      const near = lines.map((line) => line.step[nearest(line.step, pointer)]);
      const step = near.reduce((a, b) => (Math.abs(b - pointer) < Math.abs(a - pointer) ? b : a));
      const across = position(x, step, Number);
      let marks = `<path class="cross" d="M${across} ${y[0]}V${y[1]}"/>`;
      lines.forEach((line, k) => {
        const index = nearest(line.step, step);
        // A line that has ended or not begun has no value here.
        const value = step >= line.step[0] && step <= line.step.at(-1) ? line.value[index] : null;
        texts[k].textContent = format(value, unit);
        if (value !== null) {
          marks += `<circle class="dot" r="4" cx="${position(x, line.step[index], Number)}" cy="${position(y, value, scale)}" style="fill: var(--s${line.colour})"/>`;
        }
      });
      layer.innerHTML = marks;
      at.textContent = `step ${step.toLocaleString("en")}` + (per_epoch ? `, epoch ${Math.floor((step - 1) / per_epoch) + 1}` : "");
    }, () => {
      layer.innerHTML = "";
      [at, ...texts].forEach((element, k) => { element.textContent = last[k]; });
    });
  }

  for (const figure of document.querySelectorAll("figure[data-map]")) {
    const { names, cells, sums } = JSON.parse(figure.dataset.map);
    const count = new Map(cells.map(([truth, guess, n]) => [truth * names.length + guess, n]));
    const map = figure.querySelector(".map");
    const at = figure.querySelector(".at");
    const idle = at.textContent;
    follow(map, (event) => {
      const box = map.getBoundingClientRect();
      const index = (pixels, size) => Math.min(names.length - 1, Math.max(0, Math.floor((pixels / size) * names.length)));
      const guess = index(event.clientX - box.left, box.width);
      const truth = index(event.clientY - box.top, box.height);
      const n = count.get(truth * names.length + guess) || 0;
      const verdict = truth === guess ? "right" : `taken for ${names[guess]}`;
      at.textContent = `${names[truth]} ${verdict}: ${n} of ${sums[truth]}`;
    }, () => { at.textContent = idle; });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        const numeric = head.classList.contains("num");
        const rows = [...table.tBodies[0].rows].sort((a, b) =>
          numeric ? Number(value(a)) - Number(value(b)) : value(b).localeCompare(value(a)));
        if (descending) rows.reverse();
        if (!numeric) rows.reverse();
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
