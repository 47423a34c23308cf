"use strict";
// Draws the specifications that stand in the page, as wide as there is room, and says on <html> when it is done.
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = [...document.querySelectorAll(".chart")].map((place) => ({
  place,
  spec: JSON.parse(document.getElementById(place.dataset.spec).textContent),
  width: 0,
}));
const AROUND_PX = 70; // axis and its title beside a plot
const NARROWEST_PX = 180;
const LEGEND_PX = 125; // one entry with its mark

function fitted(spec, width) {
  const copy = { ...spec };
  if ("width" in copy) copy.width = width;
  for (const part of ["vconcat", "hconcat"]) if (part in copy) copy[part] = copy[part].map((view) => fitted(view, width));
  return copy;
}

function coloured(spec) {
  const ink = dark.matches ? "#e8eaed" : "#1a1c1f";
  const axis = { ...spec.config.axis, labelColor: ink, titleColor: ink, gridColor: dark.matches ? "#444a52" : "#dfe2e6" };
  const legend = { ...spec.config.legend, labelColor: ink, titleColor: ink };
  const config = { ...spec.config, background: dark.matches ? "#16181b" : "#ffffff", axis, legend, title: { color: ink }, text: { color: ink }, rule: { color: ink } };
  return { ...spec, config };
}

async function draw(chart) {
  const width = Math.max(NARROWEST_PX, Math.floor(chart.place.clientWidth) - AROUND_PX);
  if (width === chart.width) return;
  chart.width = width;
  const spec = coloured(fitted(chart.spec, width));
  spec.config.legend.columns = Math.max(2, Math.floor(width / LEGEND_PX));
  const drawn = await vegaEmbed(chart.place, spec, {
    ast: true, // expressions are interpreted: the page may not compile code
    renderer: "canvas",
    actions: { export: true, source: false, compiled: false, editor: false },
    tooltip: { theme: dark.matches ? "dark" : "light" },
    hover: true,
  });
  if (chart.view) chart.view.finalize();
  chart.view = drawn.view;
  await drawn.view.runAsync();
}

async function drawAll() {
  try {
    for (const chart of charts) await draw(chart);
    document.documentElement.dataset.charts = "drawn";
  } catch (error) {
    document.documentElement.dataset.charts = "failed";
    console.error(error);
  }
}

let waiting = 0;
function drawSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 150);
}

addEventListener("resize", drawSoon);
dark.addEventListener("change", () => {
  for (const chart of charts) chart.width = 0;
  drawSoon();
});
drawAll();
