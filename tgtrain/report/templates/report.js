"use strict";
// The page is whole without this: it adds reading values off charts and the map with the pointer, and sorting.
(() => {
  const ns = "http://www.w3.org/2000/svg";
  const shown = (value, unit) => {
    if (value === null) return "–";
    if (unit === " %") return value.toFixed(1) + unit;
    const size = Math.abs(value);
    const text = size >= 1000 ? Math.round(value).toLocaleString("en")
      : size && size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
    return text + unit;
  };
  for (const figure of document.querySelectorAll("figure.chart")) {
    const data = JSON.parse(figure.dataset.readout);
    const plot = figure.querySelector(".plot");
    const at = figure.querySelector(".at");
    const texts = [...figure.querySelectorAll(".legend b")];
    const last = texts.map((text) => text.textContent);
    const idle = at.textContent;
    const layer = document.createElementNS(ns, "g");
    layer.setAttribute("visibility", "hidden");
    const cross = layer.appendChild(document.createElementNS(ns, "line"));
    cross.setAttribute("class", "cross");
    cross.setAttribute("y1", data.y[0]);
    cross.setAttribute("y2", data.y[1]);
    const dots = data.lines.map((line) => {
      const dot = layer.appendChild(document.createElementNS(ns, "circle"));
      dot.setAttribute("class", "dot");
      dot.setAttribute("r", 4);
      dot.style.fill = `var(--s${line.colour})`;
      return dot;
    });
    plot.append(layer);
    const place = ([start, end, low, high], value, log) => {
      const f = log ? Math.log : (number) => number;
      return start + ((f(value) - f(low)) / (f(high) - f(low))) * (end - start);
    };
    const nearest = (steps, step) => {
      let low = 0, high = steps.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (steps[middle] < step) low = middle; else high = middle;
      }
      return step - steps[low] <= steps[high] - step ? low : high;
    };
    const move = (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
      const [start, end, low, high] = data.x;
      const wanted = low + ((x - start) / (end - start)) * (high - low);
      const near = data.lines.map((line) => line.step[nearest(line.step, wanted)]);
      const step = near.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
      const where = place(data.x, step, false);
      cross.setAttribute("x1", where);
      cross.setAttribute("x2", where);
      data.lines.forEach((line, k) => {
        const index = nearest(line.step, step);
        // A line that has ended, or not begun, has no value here.
        const there = step >= line.step[0] && step <= line.step[line.step.length - 1];
        const value = there ? line.value[index] : null;
        texts[k].textContent = shown(value, data.unit);
        dots[k].setAttribute("visibility", value === null ? "hidden" : "inherit");
        if (value !== null) {
          dots[k].setAttribute("cx", place(data.x, line.step[index], false));
          dots[k].setAttribute("cy", place(data.y, value, data.log));
        }
      });
      const epoch = data.per_epoch ? `, epoch ${Math.floor((step - 1) / data.per_epoch) + 1}` : "";
      at.textContent = `step ${step.toLocaleString("en")}${epoch}`;
      layer.setAttribute("visibility", "visible");
    };
    const leave = () => {
      layer.setAttribute("visibility", "hidden");
      texts.forEach((text, k) => { text.textContent = last[k]; });
      at.textContent = idle;
    };
    plot.addEventListener("pointermove", move);
    plot.addEventListener("pointerdown", move);
    plot.addEventListener("pointerleave", leave);
  }
  for (const figure of document.querySelectorAll("figure.confusion-map")) {
    const { names, cells, sums } = JSON.parse(figure.dataset.readout);
    const count = new Map(cells.map(([truth, guess, n]) => [truth * names.length + guess, n]));
    const map = figure.querySelector(".map");
    const at = figure.querySelector(".at");
    const idle = at.textContent;
    const move = (event) => {
      const box = map.getBoundingClientRect();
      const index = (pixels, size) => Math.min(names.length - 1, Math.max(0, Math.floor((pixels / size) * names.length)));
      const guess = index(event.clientX - box.left, box.width);
      const truth = index(event.clientY - box.top, box.height);
      const n = count.get(truth * names.length + guess) || 0;
      at.textContent = `${names[truth]} taken for ${names[guess]}: ${n} of ${sums[truth]}`;
      if (truth === guess) at.textContent = `${names[truth]} right: ${n} of ${sums[truth]}`;
    };
    map.addEventListener("pointermove", move);
    map.addEventListener("pointerdown", move);
    map.addEventListener("pointerleave", () => { at.textContent = idle; });
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
