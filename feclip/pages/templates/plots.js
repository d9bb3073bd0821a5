// Plots in the colours of the page: a colour written "--name" is the style sheet's, read again when the theme changes.
"use strict";

feclip.plots = (() => {
  const drawn = new Map();
  const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function resolved(value) {
    if (typeof value === "string") return value.startsWith("--") ? color(value) : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(resolved);
    if (value && typeof value === "object" && !ArrayBuffer.isView(value)) {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner)]));
    }
    return value;
  }

  function axis(given) {
    const lines = { gridcolor: color("--grid"), linecolor: color("--line"), zerolinecolor: color("--grid") };
    return { automargin: true, ...lines, ...resolved(given ?? {}) };
  }

  // Plotly reads tags in its texts; names of a table are text alone.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

  function themed(layout) {
    const look = {
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: color("--text") },
      margin: { l: 60, r: 16, t: 12, b: 48 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: color("--surface"), bordercolor: color("--line"), font: { color: color("--text") } },
      colorway: ["--series-1", "--series-2", "--series-3", "--series-4"].map(color),
    };
    return { ...look, ...resolved(layout), xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) };
  }

  function paint(element) {
    const { traces, layout } = drawn.get(element);
    Plotly.react(element, traces.map(resolved), themed(layout), CONFIG);
  }

  function draw(id, traces, layout) {
    const element = document.getElementById(id);
    drawn.set(element, { traces, layout });
    paint(element);
  }

  document.addEventListener("feclip-theme", () => [...drawn.keys()].forEach(paint));
  return { draw, plain };
})();
