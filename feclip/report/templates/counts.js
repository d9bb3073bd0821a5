// Counts above a stop of the slider, by group and date. Bin i ends at stop i, so what is above stop j lies in bins after j.
"use strict";

feclip.counts = (() => {
  const Z = 1.959963984540054; // 97.5th percentile of the standard normal law

  function wilson(num, total) {
    if (total === 0) return [0, 1];
    const rate = num / total;
    const spread = Z * Math.sqrt((rate * (1 - rate)) / total + (Z / (2 * total)) ** 2);
    const center = rate + Z ** 2 / (2 * total);
    const scale = 1 + Z ** 2 / total;
    return [num === 0 ? 0 : (center - spread) / scale, num === total ? 1 : (center + spread) / scale];
  }

  // A cell knows how many of its images lie in its bins from each one on.
  function opened([group, date, errors, start, numbers]) {
    const from = new Float64Array(numbers.length + 1);
    for (let index = numbers.length - 1; index >= 0; index--) from[index] = from[index + 1] + numbers[index];
    return { group, date, errors, start, numbers, from, scored: from[0] };
  }

  function above(cell, stop) {
    const index = stop + 1 - cell.start;
    if (index <= 0) return cell.scored;
    return index < cell.from.length ? cell.from[index] : 0;
  }

  function tally(cells, stop) {
    const total = { scored: 0, anomalous: 0, errors: 0 };
    for (const cell of cells) {
      total.scored += cell.scored;
      total.anomalous += above(cell, stop);
      total.errors += cell.errors;
    }
    return total;
  }

  function tallies(cells, stop, key, num) {
    const parts = Array.from({ length: num }, () => []);
    for (const cell of cells) parts[cell[key]].push(cell);
    return parts.map((part) => tally(part, stop));
  }

  function summed(cells, num) {
    const total = new Float64Array(num);
    for (const { start, numbers } of cells) numbers.forEach((number, index) => (total[start + index] += number));
    return total;
  }

  return { above, opened, summed, tallies, tally, wilson };
})();
