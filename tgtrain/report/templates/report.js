"use strict";
// The page is complete without this script. It reads values off charts and maps with the pointer and with keys, sorts tables,
// filters errors, and opens what an address names.
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
  const ARROWS = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-1e9, 0], End: [1e9, 0], PageUp: [-10, 0], PageDown: [10, 0],
  };
  const keys = (element, move, leave) => {
    element.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (ARROWS[event.key]) { event.preventDefault(); move(ARROWS[event.key]); } else if (event.key === "Escape") leave();
    });
    element.addEventListener("blur", leave);
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

  for (const figure of document.querySelectorAll("figure.chart[data-readout]")) {
    const { x, y, log, unit, per_epoch, lines } = JSON.parse(figure.dataset.readout);
    const plot = figure.querySelector(".plot");
    const layer = plot.querySelector("svg");
    const at = figure.querySelector(".at");
    const texts = [...figure.querySelectorAll(".legend b")];
    const last = [at, ...texts].map((element) => element.textContent);
    const scale = log ? Math.log : Number;
    const all = [...new Set(lines.flatMap((line) => line.step))].sort((a, b) => a - b);
    let current = null;
    const show = (step) => {
      current = step;
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
    };
    const leave = () => {
      current = null;
      layer.innerHTML = "";
      [at, ...texts].forEach((element, k) => { element.textContent = last[k]; });
    };
    follow(plot, (event) => {
      const box = plot.getBoundingClientRect();
      const pointer = position([x[2], x[3], x[0], x[1]], ((event.clientX - box.left) / box.width) * layer.viewBox.baseVal.width, Number);
      const near = lines.map((line) => line.step[nearest(line.step, pointer)]);
      show(near.reduce((a, b) => (Math.abs(b - pointer) < Math.abs(a - pointer) ? b : a)));
    }, leave);
    keys(plot, ([by]) => {
      const place = current === null ? all.length - 1 + Math.min(0, by) : all.indexOf(current) + by;
      show(all[Math.min(all.length - 1, Math.max(0, place))]);
    }, leave);
  }

  // A matrix: each of the areas shows all of its rows and columns. `say` puts a cell in words.
  const matrix = (holder, areas, rows, columns, at, say) => {
    const idle = at.textContent;
    let current = null;
    const inside = (value, size) => Math.min(size - 1, Math.max(0, value));
    const show = (row, column) => {
      current = [row, column];
      at.textContent = say(row, column);
      const place = { display: "block", left: `${(100 * column) / columns}%`, top: `${(100 * row) / rows}%`, width: `${100 / columns}%`, height: `${100 / rows}%`, minWidth: "5px", minHeight: "5px" };
      for (const area of areas) Object.assign(area.querySelector(".cursor").style, place);
    };
    const leave = () => {
      current = null;
      at.textContent = idle;
      for (const area of areas) area.querySelector(".cursor").style.display = "none";
    };
    for (const area of areas) {
      follow(area, (event) => {
        const box = area.getBoundingClientRect();
        const index = (pixels, size, count) => inside(Math.floor((pixels / size) * count), count);
        show(index(event.clientY - box.top, box.height, rows), index(event.clientX - box.left, box.width, columns));
      }, leave);
    }
    keys(holder, ([right, down]) => {
      const [row, column] = current || [0, columns - 1];
      show(inside(row + (current ? down : 0), rows), inside(column + (current ? right : 0), columns));
    }, leave);
  };
  for (const figure of document.querySelectorAll("figure[data-map]")) {
    const { names, cells, sums } = JSON.parse(figure.dataset.map);
    const count = new Map(cells.map(([truth, guess, n]) => [truth * names.length + guess, n]));
    const area = figure.querySelector(".map-area");
    matrix(area, [area], names.length, names.length, figure.querySelector(".at"), (truth, guess) => {
      const n = count.get(truth * names.length + guess) || 0;
      return `${names[truth]} ${truth === guess ? "right" : `taken for ${names[guess]}`}: ${n} of ${sums[truth]}`;
    });
  }
  for (const figure of document.querySelectorAll("figure[data-grid]")) {
    const grid = JSON.parse(figure.dataset.grid);
    const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(0)} %` : "–");
    const at = figure.querySelector(".at");
    matrix(figure.querySelector(".maps"), [...figure.querySelectorAll(".map-area")], grid.names.length, grid.columns.length, at, (row, column) => {
      const [kept, checked, right, clips, all] = ["num_selected", "num_checked", "num_correct", "num_true", "num_predicted"].map((name) => grid[name][row][column]);
      const truth = clips || checked ? `; ${clips} clips of the class; ${share(right, checked)} of those kept right; share of the truth ${share(right, clips)}` : "";
      return `${grid.names[row]}, ${grid.columns[column]}: ${kept} of ${all} labels kept${truth}`;
    });
  }

  for (const line of document.querySelectorAll(".buttons")) line.hidden = false;
  const toggles = [...document.querySelectorAll("button[data-toggle]")];
  const WORDS = { paused: ["Pause the clips", "Play the clips"], whole: ["Frames side by side", "As moving clips"] };
  for (const button of toggles) {
    const { toggle } = button.dataset;
    button.addEventListener("click", () => {
      const on = document.body.classList.toggle(toggle);
      for (const other of toggles.filter((each) => each.dataset.toggle === toggle)) other.textContent = WORDS[toggle][Number(on)];
    });
  }

  const errors = [...document.querySelectorAll("#errors .error")];
  const filters = [...document.querySelectorAll("#errors select")];
  for (const filter of filters) {
    const values = [...new Set(errors.map((figure) => figure.dataset[filter.dataset.filter]))].sort();
    filter.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    filter.addEventListener("input", () => {
      for (const figure of errors) {
        figure.hidden = filters.some(({ value, dataset }) => value && figure.dataset[dataset.filter] !== value);
      }
      const count = errors.filter((figure) => !figure.hidden).length;
      document.querySelector("#errors [role=status]").textContent = `${count} of ${errors.length}`;
    });
  }

  const open = () => {
    const named = location.hash && document.getElementById(location.hash.slice(1));
    for (let element = named; element; element = element.parentElement) if (element.tagName === "DETAILS") element.open = true;
    if (named) named.scrollIntoView();
  };
  addEventListener("hashchange", open);
  for (const link of document.querySelectorAll("a[href^='#']")) link.addEventListener("click", () => setTimeout(open));
  open();
  addEventListener("beforeprint", () => { for (const element of document.querySelectorAll("details")) element.open = true; });

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
