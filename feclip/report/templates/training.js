// Curves over the epochs of a training.
"use strict";

(() => {
  const { epochs, curves } = JSON.parse(document.getElementById("data").textContent);
  const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star"];

  function draw(id, chosen, title) {
    if (!document.getElementById(id)) return;
    const traces = chosen.map(({ name, values }, index) => ({
      type: "scatter", mode: "lines+markers", x: epochs, y: values, name: feclip.plots.plain(name),
      marker: { symbol: SYMBOLS[index % SYMBOLS.length], size: 8 },
    }));
    feclip.plots.draw(id, traces, {
      xaxis: { title: { text: "epoch" }, dtick: Math.max(1, Math.ceil(epochs.length / 12)) },
      yaxis: { title: { text: title } }, hovermode: "x unified",
    });
  }

  draw("loss-plot", curves.filter((curve) => curve.is_loss), "loss");
  draw("held-out-plot", curves.filter((curve) => !curve.is_loss), "0 to 1, larger is better");
})();
