// Rate against loss and the training curves, drawn as SVG from the embedded record.
const BOX = { left: 46, right: 350, top: 48, bottom: 212, width: 360, height: 250 };
const TITLE = 46; // letters of a panel's title that fit
function axis(values, start, end) {
  const low = Math.log10(Math.min(...values)), high = Math.log10(Math.max(...values));
  const pad = Math.max((high - low) * 0.06, 0.05);
  const at = (value) => start + ((Math.log10(value) - low + pad) / (high - low + 2 * pad)) * (end - start);
  return { at, ticks: ticks(10 ** (low - pad), 10 ** (high + pad)) };
}
function ticks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) for (const step of [1, 2, 5]) found.push(Number(`${step}e${power}`));
  const inside = found.filter((value) => value >= low && value <= high);
  const tens = inside.filter((value) => /^1(0*|e.*)$|^0\.0*1$/.test(String(value)));
  return inside.length <= 6 ? inside : tens.length > 6 ? tens.filter((_, i) => i % Math.ceil(tens.length / 6) === 0) : tens;
}
// A series has one colour and mark in all panels of a case.
function binsOf(number) {
  return [...new Set(record.rows.filter((row) => row[CASE] === number).map((row) => row[BIN]))];
}
function curvesOf(number, areas) {
  const measure = record.cases[number[0]].measures[number[1]];
  const bins = [...new Set(record.rows.filter((row) => row[CASE] === number[0] && row[MEASURE] === number[1]).map((row) => row[BIN]))];
  const series = binsOf(number[0]);
  const lines = bins.map((bin, place) => ({
    label: record.bins[bin], place, style: series.indexOf(bin) % MARKS.length,
    points: record.levels.flatMap((name, level) => {
      const rows = areas.map((area) => rowAt.get([level, area, ...number, bin].join())).filter((row) => row && row[HIGH] !== null);
      if (!rows.length) return [];
      const row = rows.reduce((worst, one) => (endOf(one) > endOf(worst) ? one : worst));
      const price = cost(level, areas.filter((area) => storedAt.has(`${level},${area}`)));
      const size = (value) => Math.abs(value);
      return [{ name, bpp: price.bpp, value: size(row[VALUE]), low: row[LOW] > 0 || row[HIGH] < 0 ? Math.min(size(row[LOW]), size(row[HIGH])) : 0, high: endOf(row), count: row[COUNT], area: row[AREA] }];
    }),
  }));
  return { measure, lines };
}
function panel(number, areas, limit) {
  const { measure, lines } = curvesOf(number, areas);
  const points = lines.flatMap((line) => line.points);
  const losses = points.flatMap((point) => [point.value, point.low, point.high]).filter((value) => value > 0);
  const what = `${measure.name}: ${measure.statistic === "p90" ? "90th percentile of the loss" : "mean loss"}${isRate(measure) ? " [%]" : measure.unit ? ` [${measure.unit}]` : ""}`;
  const rates = points.map((point) => point.bpp).filter((value) => value > 0);
  const isEmpty = !losses.length || !rates.length;
  const fitted = what.length > TITLE ? { textLength: BOX.width - 8, lengthAdjust: "spacingAndGlyphs" } : {};
  const svg = draw("svg", { viewBox: `0 0 ${BOX.width} ${isEmpty ? 56 : BOX.height}`, role: "img", "aria-label": `${what}, against ${rateIn(areas)}. ${summary(lines, measure)}` },
    draw("text", { x: 4, y: 14, class: "title", ...fitted }, what));
  if (isEmpty) {
    svg.append(draw("text", { x: BOX.left, y: 40, class: "quiet" }, points.some((point) => point.name !== "exact") ? "No level loses anything." : "Too few objects for a number."));
    return svg;
  }
  const x = axis(rates, BOX.left, BOX.right), y = axis(losses, BOX.bottom - 24, BOX.top), zero = BOX.bottom - 8;
  const height = (value) => (value > 0 ? y.at(value) : zero);
  frame(svg, x, y, zero, measure, points, rateIn(areas));
  if (limit !== null && limit > 0) {
    const at = Math.min(Math.max(y.at(limit), BOX.top), zero);
    svg.append(draw("line", { x1: BOX.left, x2: BOX.right, y1: at, y2: at, class: "need" }, draw("title", {}, `your need: ${amount(limit, measure)}`)));
  }
  lines.forEach((line) => svg.append(curve(line, x, height, measure, lines.length)));
  return svg;
}
function frame(svg, x, y, zero, measure, points, rate) {
  for (const tick of x.ticks) svg.append(draw("text", { x: x.at(tick), y: BOX.bottom + 14, "text-anchor": "middle", class: "quiet" }, digits(tick)));
  for (const tick of y.ticks) {
    const at = y.at(tick);
    svg.append(draw("line", { x1: BOX.left, x2: BOX.right, y1: at, y2: at, class: "grid" }),
      draw("text", { x: BOX.left - 6, y: at + 4, "text-anchor": "end", class: "quiet" }, digits(isRate(measure) ? 100 * tick : tick)));
  }
  svg.append(draw("line", { x1: BOX.left, x2: BOX.right, y1: zero, y2: zero, class: "axis" }),
    draw("text", { x: BOX.left - 6, y: zero + 4, "text-anchor": "end", class: "quiet" }, "0"),
    draw("text", { x: (BOX.left + BOX.right) / 2, y: BOX.height - 6, "text-anchor": "middle", class: "quiet" }, rate));
  const names = new Map(points.map((point) => [point.name, x.at(point.bpp)]));
  [...names].sort((a, b) => a[1] - b[1]).forEach(([name, at], i) => svg.append(
    draw("line", { x1: at, x2: at, y1: BOX.top - 4, y2: BOX.bottom, class: "grid" }),
    draw("text", { x: Math.min(Math.max(at, BOX.left + 14), BOX.right - 14), y: BOX.top - (i % 2 ? 8 : 20), "text-anchor": "middle" }, name)));
}
function curve(line, x, height, measure, count) {
  const group = draw("g", { class: `s${line.style}` });
  const shift = ((line.place % MARKS.length) - (Math.min(count, MARKS.length) - 1) / 2) * 3; // so that intervals stand side by side
  const place = (point) => [x.at(point.bpp) + shift, height(point.value)];
  group.append(draw("path", { class: "line", opacity: 0.55, d: line.points.map((point, i) => `${i ? "L" : "M"}${place(point).map((at) => at.toFixed(1))}`).join("") }));
  for (const point of line.points) {
    const [at, up] = place(point);
    const words = `${line.label} at ${point.name}: ${amount(point.value, measure)} (${amount(point.low, measure)} to ${amount(point.high, measure)}), ${point.count} objects, ${record.areas[point.area].label}`;
    group.append(draw("line", { class: "interval", x1: at, x2: at, y1: height(point.low), y2: height(point.high) }),
      draw("path", { class: "mark", d: MARKS[line.style], transform: `translate(${at.toFixed(1)},${up.toFixed(1)})` }, draw("title", {}, words)));
  }
  return group;
}
const summary = (lines, measure) => lines.filter((line) => line.points.length)
  .map((line) => `${line.label}: ${line.points.map((point) => `${point.name} ${amount(point.value, measure)}`).join(", ")}`).join(". ");

function legend(lines) {
  return make("ul", { class: "legend" }, ...lines.map((line) => make("li", {},
    draw("svg", { viewBox: "-8 -8 16 16", class: `s${line.style}`, "aria-hidden": "true" }, draw("path", { class: "mark", d: MARKS[line.style] })), line.label)));
}
function numbers(number, areas) {
  const body = make("tbody");
  record.cases[number].measures.forEach((measure, i) => curvesOf([number, i], areas).lines.forEach((line) => line.points.forEach((point) => body.append(
    make("tr", {}, ...[measure.name, line.label, point.name].map((text) => make("td", {}, text)),
      ...[digits(point.bpp), String(point.count), amount(point.value, measure), `${amount(point.low, measure)} to ${amount(point.high, measure)}`].map((text) => make("td", { class: "n" }, text)))))));
  const head = ["measure", "objects", "level", rateIn(areas), "n", "loss", "95 % interval"];
  return make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", { scope: "col", ...(i > 2 ? { class: "n" } : {}) }, text)))), body);
}
function card(i, now) {
  const one = record.cases[i], areas = areasOf(i, $("shown").value), series = new Map();
  const panels = one.measures.map((measure, j) => {
    const { lines } = curvesOf([i, j], areas);
    for (const line of lines) if (line.points.length) series.set(line.label, line);
    return panel([i, j], areas, now.one === one && now.measure === measure ? now.most : null);
  });
  const table = make("details", {}, make("summary", {}, "The same as a table"));
  const place = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${one.name}, numbers` });
  table.append(place);
  table.addEventListener("toggle", () => place.childElementCount || place.append(numbers(i, areas)));
  return make("div", { class: "card" }, make("h3", {}, one.name), legend([...series.values()]), make("div", { class: "panels" }, ...panels), table);
}
function drawFigures(now) {
  record.cases.forEach((one, i) => {
    const key = [$("shown").value, ...(now.one === one ? [now.measure.name, now.most] : [])].join();
    const old = $("figures").children[i];
    if (old && old.dataset.key === key) return; // a redrawn figure costs time while a slider moves
    const fresh = card(i, now);
    fresh.dataset.key = key;
    if (old) {
      fresh.querySelector("details").open = old.querySelector("details").open;
      old.replaceWith(fresh);
    } else $("figures").append(fresh);
  });
}
function drawHistory() {
  if (!$("history")) return;
  const panels = Object.entries(record.history).map(([name, points], i) => {
    const good = points.filter((point) => point[1] !== null), values = good.map((point) => point[1]);
    const last = values[values.length - 1];
    const svg = draw("svg", { viewBox: `0 0 ${BOX.width} 170`, role: "img", "aria-label": `${name} over training steps: from ${digits(values[0] ?? null)} to ${digits(last ?? null)}` },
      draw("text", { x: 4, y: 14, class: "title" }, `${name}: ${digits(last ?? null)} at the end`));
    if (!good.length) return svg;
    const log = Math.min(...values) > 0 && Math.max(...values) > 5 * Math.min(...values);
    const lift = log ? Math.log10 : (value) => value;
    const ends = [Math.min(...values), Math.max(...values)], [low, high] = ends.map(lift);
    const steps = good.map((point) => point[0]), first = steps[0], width = (steps[steps.length - 1] - first) || 1;
    const at = (point) => [BOX.left + ((point[0] - first) / width) * (BOX.right - BOX.left), 130 - ((lift(point[1]) - low) / (high - low || 1)) * 96];
    for (const value of ends) svg.append(draw("line", { x1: BOX.left, x2: BOX.right, y1: at([first, value])[1], y2: at([first, value])[1], class: "grid" }),
      draw("text", { x: BOX.left - 6, y: at([first, value])[1] + 4, "text-anchor": "end", class: "quiet" }, digits(value)));
    svg.append(draw("g", { class: "s1" }, draw("path", { class: "line", d: good.map((point, j) => `${j ? "L" : "M"}${at(point).map((one) => one.toFixed(1))}`).join("") })),
      draw("text", { x: BOX.left, y: 148, class: "quiet" }, digits(first)),
      draw("text", { x: BOX.right, y: 148, "text-anchor": "end", class: "quiet" }, `step ${steps[steps.length - 1]}`));
    if (log) svg.append(draw("text", { x: BOX.right, y: 14, "text-anchor": "end", class: "quiet" }, "logarithmic"));
    return svg;
  });
  $("history").replaceChildren(make("div", { class: "panels" }, ...panels));
}
if (record.cases.length) start();
else for (const id of ["controls", "answer", "verdicts", "paste", "figures"]) $(id).hidden = true;
drawHistory();
