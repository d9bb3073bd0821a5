// Cards of images, the viewer of one, and the export of what is shown. Text of a table never becomes markup here.
"use strict";

feclip.gallery = (() => {
  const NAMES = { image_logit: "image logit", map_max: "map maximum", map_topk_mean: "map top-k mean", image_score: "image score" };

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const shortName = (uri) => uri.slice(uri.lastIndexOf("/") + 1) || uri;
  const number = (value) => (value === null || value === undefined ? "" : Number(value.toPrecision(4)).toString());

  function picture(card, { withMap, eager }) {
    const stack = element("span", "stack");
    stack.style.aspectRatio = `${card.shape[0]} / ${card.shape[1]}`;
    const layer = (file, className, alt) => {
      const image = element("img", className);
      image.src = file;
      image.alt = alt;
      if (!eager) image.loading = "lazy";
      return image;
    };
    if (card.photo) stack.append(layer(card.photo, "photo", withMap ? "" : shortName(card.uri)));
    if (withMap) stack.append(layer(card.overlay, "map", `Heatmap of ${shortName(card.uri)}`));
    return stack;
  }

  function pictures(card, options) {
    const parts = [];
    if (card.photo) parts.push(picture(card, { ...options, withMap: false }));
    else parts.push(element("span", "missing", card.note || "The image was not fetched."));
    if (card.overlay) parts.push(picture(card, { ...options, withMap: true }));
    return parts;
  }

  function facts(list, pairs) {
    for (const [name, value] of pairs) list.append(element("dt", "", name), element("dd", "", value));
  }

  function label(card, { calibrated, isAnomalous }) {
    const words = calibrated ? (isAnomalous ? "anomalous" : "normal") : isAnomalous ? "above" : "below";
    return element("span", `label ${isAnomalous ? "anomalous" : "normal"}`, words);
  }

  function scores(card, { calibrated }) {
    const pairs = calibrated ? [["beyond threshold", number(card.margin)]] : [];
    return [...pairs, ...Object.entries(card.scores).map(([name, value]) => [NAMES[name], number(value)])];
  }

  function cardOf(card, context) {
    const item = element("li", "card");
    const button = element("button");
    button.type = "button";
    const isWide = card.shape[0] > 1.6 * card.shape[1];
    const parts = pictures(card, { eager: false });
    if (parts.length === 1) button.classList.add("single");
    else if (isWide || !card.photo) button.classList.add("wide");
    button.append(...parts);
    button.setAttribute("aria-label", `Open ${shortName(card.uri)}`);
    button.dataset.row = card.id;
    button.addEventListener("click", () => context.open(card.id));
    const words = element("div", "words");
    words.append(element("div", "name", shortName(card.uri)), label(card, context.decide(card)));
    const list = element("dl");
    facts(list, [...scores(card, context), ...Object.entries(card.further)]);
    words.append(list);
    if (card.note && card.photo) words.append(element("p", "note", card.note));
    item.append(button, words);
    return item;
  }

  function show(cards, context) {
    document.getElementById("cards").replaceChildren(...cards.map((card) => cardOf(card, context)));
  }

  function relabel(cards, context) {
    document.querySelectorAll("#cards .card").forEach((item, index) => {
      item.querySelector(".label").replaceWith(label(cards[index], context.decide(cards[index])));
    });
  }

  function fillViewer(card, context) {
    document.getElementById("viewer-name").textContent = shortName(card.uri);
    const parts = pictures(card, { eager: true });
    document.getElementById("viewer-images").replaceChildren(...parts);
    document.getElementById("opacity-control").hidden = !card.overlay;
    fade();
    const list = document.getElementById("viewer-facts");
    list.replaceChildren();
    const decided = label(card, context.decide(card)).textContent;
    const size = card.size ? [["size", `${card.size[0]} x ${card.size[1]} px`]] : [];
    const note = card.note && card.photo ? [["note", card.note]] : [];
    facts(list, [["file", card.uri], ["decision", decided], ...scores(card, context), ...Object.entries(card.further), ...size, ...note]);
  }

  function fade() {
    const share = document.getElementById("opacity").value / 100;
    document.querySelectorAll("#viewer-images .map").forEach((map) => (map.style.opacity = share));
  }

  // A spreadsheet takes text that starts like a formula for one.
  const guarded = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function csv(cards, context) {
    const further = [...new Set(cards.flatMap((card) => Object.keys(card.further)))];
    const scored = [...new Set(cards.flatMap((card) => Object.keys(card.scores)))];
    const heading = ["row_id", "uri", ...further, ...scored, "beyond_threshold", "label"];
    const lines = cards.map((card) => [
      String(card.id), guarded(card.uri), ...further.map((name) => guarded(card.further[name] ?? "")),
      ...scored.map((name) => String(card.scores[name] ?? "")), String(card.margin), label(card, context.decide(card)).textContent,
    ]);
    return [heading, ...lines].map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  }

  function download(text, name) {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function legend(heat) {
    const place = document.getElementById("heat-legend");
    if (!heat) return;
    const ramp = element("span", "ramp");
    ramp.style.background = `linear-gradient(to right, ${heat.colors.join(", ")})`;
    place.append(element("span", "", `heatmap, logits: ${number(heat.low)} and below`), ramp, element("span", "", `${number(heat.high)} and above`));
    if (heat.outline !== null) place.append(element("span", "", `white line: the map's threshold, ${number(heat.outline)}`));
    place.hidden = false;
  }

  return { csv, download, fade, fillViewer, legend, relabel, show };
})();
