"""What a reproduction leaves for people and programs: ``table.md``, ``table.csv``, ``table.json``, and a screen."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feclip import __version__
from feclip.config import PAPER_SEEDS, SPEED_FIELDS, ReproduceConfig, ReproductionDataConfig, changed_fields, plain
from feclip.evaluation import PAPER, code, header, line, on_screen
from feclip.reproduction.numbers import CONFIDENCE, METRICS, Estimate, SeedResult, estimates
from feclip.reproduction.plan import TRAINED_ON

__all__ = ["Reproduction"]

GENERATED = (
    "GENERATED PICTURES: these numbers show that every step runs. They say nothing about the paper, and the difference "
    "to it means nothing."
)
GENERATED_MARK = "‡"
RECIPE_GROUPS, RECIPE_FIELDS = ("model", "loss", "optim"), ("data.resize", "score.smoothing_sigma")
COLUMNS = (
    "data_set", "metric", "mean", "deviation", "low", "high", "num_seeds", "paper", "difference", "paper_inside",
    "generated",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """All that is known of a reproduction so far."""

    config: ReproduceConfig
    results: Mapping[tuple[str, int], SeedResult]
    """By data set and seed, those that are there."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Steps that failed, each with its one line."""

    @property
    def estimates(self) -> Sequence[Estimate]:
        """The rows of the table."""
        return estimates(self.results)

    def markdown(self) -> str:
        """Return the page: the table, what it means, and how this differs from the paper."""
        return "\n".join([f"# Beside the paper{self._mark}", "", *self._body()]).rstrip() + "\n"

    def screen(self) -> str:
        """Return the same for a terminal."""
        return on_screen(list(self._body()))

    def csv(self) -> str:
        """Return one line for each data set and metric, numbers in per cent."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self._record(row) for row in self.estimates)
        return text.getvalue()

    def json(self) -> str:
        """Return the same with the number of each seed, the config, and what failed or is absent."""
        record = {
            "feclip_version": __version__,
            "generated": self.config.dry_run,
            "confidence": CONFIDENCE,
            "config": plain(self.config),
            "rows": [
                self._record(row) | {"values": {str(n): v for n, v in row.values.items()}} for row in self.estimates
            ],
            "images": {
                f"{name}, seed {seed}": {"num_images": found.num_images, "num_anomalous": found.num_anomalous}
                for (name, seed), found in self.results.items()
            },
            "failures": dict(self.failures),
            "absent": self._absent(),
        }
        return json.dumps(record, indent=1) + "\n"

    @property
    def _mark(self) -> str:
        return f" {GENERATED_MARK}" if self.config.dry_run else ""

    def _record(self, row: Estimate) -> dict[str, Any]:
        low, high = row.interval or (None, None)
        values = (
            row.dataset, row.metric, row.mean, row.deviation, low, high, len(row.values), row.paper, row.difference,
            row.holds_paper, self.config.dry_run,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))

    def _body(self) -> Iterator[str]:
        if self.config.dry_run:
            yield from (f"**{GENERATED_MARK} {GENERATED}**", "")
        yield from self._table()
        yield ""
        yield from (f"- {note}" for note in self._notes())

    def _table(self) -> Iterator[str]:
        interval = f"{100 * CONFIDENCE:g} % interval"
        yield from header(["data set, per cent", "metric", "ours", "±", interval, "paper", "difference", "inside"])
        for row in self.estimates:
            yield line([PAPER[row.dataset].title, METRICS[row.metric], *self._cells(row)])

    def _cells(self, row: Estimate) -> Iterator[str]:
        def number(value: float | None, form: str = ".1f") -> str:
            return "-" if value is None else f"{value:{form}}{self._mark}"

        yield number(row.mean)
        yield number(row.deviation)
        yield "-" if row.interval is None else f"{row.interval[0]:.1f} to {row.interval[1]:.1f}{self._mark}"
        yield "-" if row.paper is None else f"{row.paper:.1f}"
        yield number(row.difference, "+.1f")
        yield "-" if row.holds_paper is None else f"{'yes' if row.holds_paper else 'no'}{self._mark}"

    def _notes(self) -> Iterator[str]:
        """Yield what the numbers mean, how they differ from the paper's, and what is missing."""
        yield (
            "±: standard deviation over the seeds (divisor n - 1); interval: Student's t, of the mean over the seeds, "
            "for these very images; inside: whether the paper's number, a mean of five runs whose spread it does not "
            "state, lies in it."
        )
        yield (
            "PRO: the paper does not say how it is integrated; the community's recipe of 200 thresholds is compared, "
            "the exact value stands below."
        )
        yield from self._departures()
        for dataset in dict.fromkeys(name for name, _ in self.results):
            yield from self._of_set(dataset)
        yield from (f"absent: {PAPER[name].title}, {why}" for name, why in self._absent().items())
        yield from (f"failed: {step}: {code(message)}" for step, message in self.failures.items())

    def _departures(self) -> Iterator[str]:
        """Yield where the recipe is not the default, which is the paper's as far as the paper tells it."""
        default = ReproduceConfig(output="-", data=ReproductionDataConfig(mvtec="-", visa="-"))
        for name, (theirs, ours) in changed_fields(plain(default), plain(self.config)).items():
            is_recipe = name.partition(".")[0] in RECIPE_GROUPS or name in RECIPE_FIELDS
            if is_recipe and name not in SPEED_FIELDS:
                yield f"not the default recipe: {name} is {code(str(ours))} and not {code(str(theirs))}"
        if len(self.config.seeds or ()) != len(PAPER_SEEDS):
            yield f"not the paper's {len(PAPER_SEEDS)} runs: {len(self.config.seeds or ())} seeds"

    def _of_set(self, dataset: str) -> Iterator[str]:
        """Yield what judged in a data set, and what of it is missing."""
        paper, seeds = PAPER[dataset], sorted(seed for name, seed in self.results if name == dataset)
        first = self.results[dataset, seeds[0]]
        text = (
            f"{paper.title}: trained on {paper.trained_on}, seeds {', '.join(map(str, seeds))}; "
            f"{first.num_images - first.num_anomalous} normal and {first.num_anomalous} anomalous images of "
            f"{len(first.categories)} categories"
        )
        missing = sorted(paper.categories - first.categories)
        yield f"{text}; **absent: {', '.join(missing)}**" if missing else text

    def _absent(self) -> dict[str, str]:
        """Return why data sets of the paper have no row."""
        roots = self.config.data.roots
        done = {name for name, _ in self.results}
        reasons = {}
        for name in PAPER.keys() - done:
            if not self.config.dry_run and name not in roots:
                reasons[name] = f"data.{name} is not given"
            elif not self.config.dry_run and TRAINED_ON[name] not in roots:
                reasons[name] = f"data.{TRAINED_ON[name]}, which trains for it, is not given"
            else:
                reasons[name] = "not judged yet"
        return {name: reasons[name] for name in PAPER if name in reasons}
