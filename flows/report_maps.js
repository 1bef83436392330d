// t-SNE maps: points whose colour follows a column that the reader picks.
const PLOT = { width: 560, height: 420, edge: 12 };
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function ramp(part) {
  const at = Math.min(Math.max(part, 0), 1) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
  return `rgb(${RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * (at - low))).join()})`;
}
function scale(values) {
  const good = values.filter((value) => value !== null).sort((a, b) => a - b);
  const at = (part) => good[Math.round(part * (good.length - 1))];
  const [low, high] = good.length ? [at(0.02), at(0.98)] : [0, 1];
  return { low, high, part: (value) => (high > low ? (value - low) / (high - low) : 0.5) };
}
function legendOf(colour) {
  if (typeof colour.values.find((value) => value !== null) === "string") {
    const names = [...new Set(colour.values)].sort();
    return { paint: (value) => `var(--c${names.indexOf(value) % MARKS.length})`, words: names.join(", "),
      items: names.map((name, i) => make("li", {}, make("span", { class: "dot", style: `background: var(--c${i % MARKS.length})` }), name)) };
  }
  const span = scale(colour.values);
  const bar = make("li", { class: "ramp" }, digits(span.low), make("span", { class: "bar", style: `background: linear-gradient(90deg, ${RAMP.map((_, i) => ramp(i / (RAMP.length - 1))).join()})` }), digits(span.high));
  return { paint: (value) => (value === null ? "#808080" : ramp(span.part(value))), words: `from ${digits(span.low)} to ${digits(span.high)}`, items: [bar] };
}
function drawScatter(one, number) {
  const svg = draw("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", class: "scatter" });
  const legend = make("ul", { class: "legend" }), pick = make("select", { id: `colour-${number}` });
  options(pick, one.colours.map((colour, i) => [i, colour.name]), 0);
  const place = (part, size) => (PLOT.edge + part * (size - 2 * PLOT.edge)).toFixed(1);
  const dots = one.points.map(([x, y, row]) => draw("circle", { cx: place(x, PLOT.width), cy: place(1 - y, PLOT.height), r: 3 }, draw("title", {}, `number ${row}`)));
  svg.append(...dots);
  const paint = () => {
    const colour = one.colours[pick.value], found = legendOf(colour);
    dots.forEach((dot, i) => { dot.style.fill = found.paint(colour.values[i]); });
    legend.replaceChildren(...found.items);
    svg.setAttribute("aria-label", `t-SNE map of ${one.points.length} of ${one.name}, coloured by ${colour.name}, ${found.words}`);
  };
  pick.addEventListener("change", paint);
  paint();
  return make("div", { class: "card" }, make("h3", {}, `t-SNE: ${one.name}`),
    make("p", { class: "inline" }, make("label", { for: pick.id }, "Coloured by"), " ", pick), svg, legend);
}
if ($("scatters")) $("scatters").replaceChildren(...record.scatters.map(drawScatter));
