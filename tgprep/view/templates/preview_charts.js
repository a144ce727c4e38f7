
/* ---- charts ---- */
// Bars are reached with Tab, then arrow keys; Enter does what a click does.
function reach(plot, hits) {
  hits.forEach((hit, place) => {
    hit.setAttribute("tabindex", place ? "-1" : "0");
    hit.setAttribute("role", "button");
    hit.setAttribute("aria-label", hit.firstChild.textContent);
    hit.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); hit.dispatchEvent(new MouseEvent("click")); }
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const target = hits[Math.min(hits.length - 1, Math.max(0, place + by))];
      hit.setAttribute("tabindex", "-1");
      target.setAttribute("tabindex", "0");
      target.focus();
    });
  });
}
function axis(plot, width, height, left, most, title) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, most / 3)));
  const step = [1, 2, 5, 10].find((factor) => most / (factor * power) <= 3.5) * power;
  for (let value = step; value <= most; value += step) {
    const y = height * (1 - value / most);
    plot.append(svg("line", { x1: left, x2: width, y1: y, y2: y }), svg("text", { x: left - 5, y: y + 4, "text-anchor": "end" }, whole(value)));
  }
  plot.append(svg("line", { x1: left, x2: width, y1: height, y2: height }), svg("text", { x: 0, y: -10 }, title));
}
const frame = (width, height, label) => svg("svg", { width, height: height + 48, viewBox: `0 -22 ${width} ${height + 48}`, role: "group", "aria-label": label });
function drawBalance(width) {
  const entries = realClasses.map((entry, label) => ({ ...entry, label, sum: total(entry) })).filter((entry) => entry.sum > 0).sort((a, b) => b.sum - a.sum || a.label - b.label);
  const height = 150, left = 38;
  const most = Math.max(1, ...entries.map((entry) => entry.sum));
  const step = Math.min(180, (width - left) / Math.max(1, entries.length));
  const names = step >= 44;
  const plot = frame(width, height, `Videos of each class: ${entries.map((entry) => `${entry.name} ${entry.sum}`).slice(0, 40).join(", ")}`);
  axis(plot, width, height, left, most, "videos");
  const hits = [];
  const wide = Math.min(64, Math.max(step * 0.5, Math.min(step - 1, step * 0.82)));
  entries.forEach((entry, place) => {
    const x = left + place * step + (step - wide) / 2;
    let y = height;
    for (const index of usedRoles) {
      const tall = (height * entry.counts[index]) / most;
      if (!tall) continue;
      y -= tall;
      plot.append(svg("rect", { x, y, width: wide, height: tall, style: `fill: ${colour(index)}` }));
    }
    const counts = usedRoles.map((index) => `${entry.counts[index]} ${roleLabel(roleKey(index))}`).join(", ");
    const hit = svg("rect", { class: "hit", x: left + place * step, y: 0, width: step, height }, svg("title", {}, `${entry.name}: ${plural(entry.sum, "video")} (${counts})`));
    hit.addEventListener("click", () => choose({ class: entry.name }));
    plot.append(hit);
    hits.push(hit);
    if (names) {
      const fit = Math.max(3, Math.floor((step - 8) / 7));
      plot.append(svg("text", { x: x + wide / 2, y: height + 16, "text-anchor": "middle" }, entry.name.length > fit ? entry.name.slice(0, fit - 1) + "…" : entry.name));
    }
  });
  if (!names) plot.append(svg("text", { x: left, y: height + 16 }, "most videos"), svg("text", { x: width, y: height + 16, "text-anchor": "end" }, "fewest"));
  reach(plot, hits);
  const counts = entries.map((entry) => entry.sum).filter((sum) => sum > 0);
  const empty = realClasses.length - counts.length;
  $("balance").querySelector("p").textContent = counts.length
    ? `videos of each class: ${whole(counts[counts.length - 1])} to ${whole(counts[0])}${empty ? `; ${plural(empty, "class")}`.replace("classs", "classes") + " without any" : ""}` : "no videos";
  $("balance").querySelector(".plot").replaceChildren(plot);
  $("balance").querySelector(".legend").replaceChildren();
  for (const index of usedRoles) {
    $("balance").querySelector(".legend").append(make("span", {}, make("i", { style: `background: ${colour(index)}` }), `${roleLabel(roleKey(index))} ${whole(roleTotals[index])}`));
  }
}
function drawLengths(width) {
  const { first, step, counts, max } = data.lengths;
  if (!counts.length) return;
  const height = 150, left = 38, most = Math.max(...counts);
  const plot = frame(width, height, "Histogram of the videos' lengths in frames");
  axis(plot, width, height, left, most, "videos");
  const wide = (width - left) / counts.length;
  counts.forEach((count, place) => {
    const tall = (height * count) / most;
    const open = place === counts.length - 1;
    const low = first + place * step, high = open ? max : low + step - 1;
    plot.append(svg("rect", { x: left + place * wide + 1, y: height - tall, width: Math.max(1, wide - 2), height: tall, style: "fill: var(--r0)" }),
      svg("rect", { class: "hit", x: left + place * wide, y: 0, width: wide, height }, svg("title", {}, `${low === high ? low : `${low} to ${high}`} frames: ${plural(count, "video")}`)));
  });
  const every = Math.ceil(counts.length / Math.max(2, Math.floor(width / 70)));
  for (let place = 0; place < counts.length; place += every) plot.append(svg("text", { x: left + place * wide, y: height + 16 }, whole(first + place * step)));
  plot.append(svg("text", { x: width, y: height + 16, "text-anchor": "end", dy: 13 }, "frames"));
  reach(plot, [...plot.querySelectorAll(".hit")]);
  const last = first + counts.length * step - 1;
  $("lengths").querySelector("p").textContent = `frames a video; median ${whole(data.lengths.median)}, longest ${whole(max)}${max > last ? " (in the last bar)" : ""}`;
  $("lengths").querySelector(".plot").replaceChildren(plot);
}
// Motion energy: half of the videos of a class lie within its bar, the median is the line across it.
const quantile = (values, share) => {
  const place = (values.length - 1) * share, low = Math.floor(place);
  return values[low] + (place - low) * ((values[low + 1] ?? values[low]) - values[low]);
};
const motions = [...byClass].map(([name, videos]) => [name, videos.map((video) => video.motion).filter((value) => value !== undefined).sort((a, b) => a - b)])
  .filter(([, values]) => values.length)
  .map(([name, values]) => ({ name, count: values.length, low: quantile(values, 0.25), middle: quantile(values, 0.5), high: quantile(values, 0.75) }))
  .sort((a, b) => b.middle - a.middle);
function drawMotion(width) {
  if (!motions.length) return;
  const height = 150, left = 38, most = Math.max(...motions.map((entry) => entry.high), 0.1), step = Math.min(180, (width - left) / motions.length);
  const plot = frame(width, height, "Motion energy of each class"), hits = [], wide = Math.min(40, Math.max(1, step * 0.6));
  axis(plot, width, height, left, most, "grey levels");
  motions.forEach(({ name, count, low, middle, high }, place) => {
    const x = left + place * step, y = (value) => height * (1 - value / most);
    plot.append(svg("rect", { x: x + (step - wide) / 2, y: y(high), width: wide, height: Math.max(1.5, y(low) - y(high)), style: "fill: var(--r1)" }),
      svg("rect", { x: x + (step - wide) / 2, y: y(middle) - 1, width: wide, height: 2.4, style: "fill: var(--r0)" }));
    const hit = svg("rect", { class: "hit", x, y: 0, width: step, height }, svg("title", {}, `${name}: median ${middle.toFixed(1)}, half of ${plural(count, "video")} from ${low.toFixed(1)} to ${high.toFixed(1)}`));
    hit.addEventListener("click", () => choose({ class: name }));
    hits.push(hit);
    const fit = Math.max(3, Math.floor((step - 8) / 7));
    if (step >= 44) plot.append(svg("text", { x: x + step / 2, y: height + 16, "text-anchor": "middle" }, name.length > fit ? name.slice(0, fit - 1) + "…" : name));
    plot.append(hit);
  });
  if (step < 44) plot.append(svg("text", { x: left, y: height + 16 }, "most motion"), svg("text", { x: width, y: height + 16, "text-anchor": "end" }, "least"));
  reach(plot, hits);
  $("motion").querySelector("p").textContent = `mean distance of TG from no motion, over the frames shown: median and middle half of ${plural(motions.reduce((sum, entry) => sum + entry.count, 0), "video")}` + (shownAll ? "" : " on this page");
  $("motion").querySelector(".plot").replaceChildren(plot);
}
for (const [id, draw] of [["balance", drawBalance], ["lengths", drawLengths], ["motion", drawMotion]]) {
  const plot = $(id).querySelector(".plot");
  let before = 0;
  const fit = () => {
    const width = Math.max(240, Math.floor(plot.clientWidth));
    if (width !== before) draw((before = width));
  };
  fit();
  new ResizeObserver(fit).observe(plot);
}

