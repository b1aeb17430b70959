"""The gate: what a candidate must prove besides its score before the alias may move to it.

    doubts(row, teacher, budget)           # ["is 10.0 points less right in the slice 'label spam', …"]

A good average may hide other answers than the teacher's, luck in a small split, a slice gone bad, probabilities that do not
hold, an export that says something else than the model, or memory that the host does not have.
"""

from typing import Any

from pydantic import Field

from jobs.core.config import Config
from jobs.judging.slices import falls

REQUIREMENT_ROWS = "requirements"
"""What a row of a report calls what its labels are held to."""
MAXIMUM_LOSS = 0.02
"""The share of the score of what is in production that a winner may lose, where a recipe does not say."""


class Requirements(Config):
    """Conditions on a winner; those left out are not looked at."""

    minimum_kept_low: float | None = Field(None, ge=0, le=2)
    """Lower end of the 95 % interval of the share of the teacher's score that is kept."""
    minimum_agreement: float | None = Field(None, ge=0, le=1)
    """Share of the texts for which a winner must say what the teacher says."""
    maximum_slice_loss: float | None = Field(None, ge=0, le=1)
    """By how much the answers of a slice may be less right on average than the teacher's, e.g. 0.05. Slices are what the task
    tells apart (labels), quarters of the lengths, and each value of the columns that prepare keeps (slices)."""
    maximum_calibration_error: float | None = Field(None, ge=0, le=1)
    """Highest expected calibration error of the probabilities, where the kind of task has some."""
    maximum_parity_change: float | None = Field(None, ge=0, le=1)
    """The most that an answer (of labels: a probability) may differ from that of the same model as it was trained, before it
    was exported and quantised."""
    maximum_parity_flips: float | None = Field(None, ge=0, le=1)
    """Share of the texts whose answer may say something else than that of the same model as it was trained."""
    maximum_loss: float | None = Field(None, ge=0, le=1)
    """With evaluate's inputs.against: the share of the score of what is in production that a winner may lose (default: 0.02).
    The lower end of the 95 % interval of the share that it keeps, over the same rows, must not be below that: 98 %."""
    requirements_hold: bool = True
    """Whether a winner's labels must keep what the task requires of them. They do not where the whole 95 % interval, on the
    texts that candidates are judged by, is below it; the report's table says how each stands."""
    maximum_memory: int | None = Field(None, gt=0)
    """Bytes of memory that a process which serves the model may hold."""


def doubts(row: dict[str, Any], teacher: dict[str, Any], gate: Requirements) -> list[str]:
    """What keeps a candidate out, each with by how much; empty where nothing does."""
    return [*_against(row, gate), *_held(row, gate), *_answers(row, gate), *_slices(row, teacher, gate), *_limits(row, gate)]


def _against(row: dict[str, Any], gate: Requirements) -> list[str]:
    """Whether it may be worse than what is in production, by more than that may be."""
    least = 1 - (MAXIMUM_LOSS if gate.maximum_loss is None else gate.maximum_loss)
    if (against := row.get("against")) is None or (low := against["kept_interval"][0]) >= least:
        return []
    asked = f"{least:.1%} are asked of its lower end ({100 * (least - low):.2g} points more)"
    gained, bounds = against["gain"], against["gain_interval"]
    difference = f"{gained:+.4f}, {bounds[0]:+.4f} to {bounds[1]:+.4f}"
    kept = f"keeps between {low:.1%} and {against['kept_interval'][1]:.1%} of the score of {against['candidate']}"
    return [f"{kept} on the same rows (better by {difference}), {asked}"]


def _held(row: dict[str, Any], gate: Requirements) -> list[str]:
    """Whether labels do not keep what is required of them: behind heads' names, where the task has some."""
    found = []
    for key, held in row.items() if gate.requirements_hold else ():
        head, _, name = key.rpartition(".")
        for one in held if name == REQUIREMENT_ROWS else ():
            low, high = one["interval"]
            if one["rows"] and high < one["least"]:
                of = f"{one['label']!r}{f' of {head}' if head else ''}"
                shown = f"{one['reached']:.3f} of {one['rows']:,} texts ({low:.3f} to {high:.3f})"
                found.append(f"its {one['rate']} of {of} is {shown}, {one['least']:g} are required")
    return found


def _limits(row: dict[str, Any], gate: Requirements) -> list[str]:
    """Figures that are above what is allowed."""
    found = []
    most = gate.maximum_calibration_error
    if most is not None and (error := row["calibration_error"]) > most:
        found.append(f"its calibration error is {error:.3f}, allowed are {most:g} ({error - most:.2g} less)")
    most = gate.maximum_parity_change
    if most is not None and (change := row["parity_change"]) > most:
        over = f"{change - most:.2g} less"
        found.append(f"an answer is {change:.3g} from that of {_trained(row)}, allowed are {most:g} ({over})")
    most = gate.maximum_parity_flips
    if most is not None and (flips := row["parity_flips"]) > most:
        over = f"{100 * (flips - most):.2g} points less"
        found.append(f"{flips:.1%} of its answers are not those of {_trained(row)}, allowed are {most:.1%} ({over})")
    bytes_allowed = gate.maximum_memory
    if bytes_allowed is not None and (held := row["memory_bytes"]) > bytes_allowed:
        found.append(f"holds {held:,} bytes of memory, allowed are {bytes_allowed:,} ({held - bytes_allowed:,} less)")
    return found


def _trained(row: dict[str, Any]) -> str:
    """What a variant is compared with."""
    return f"{row['parity_reference']}, the model as it was trained"


def _answers(row: dict[str, Any], gate: Requirements) -> list[str]:
    """Whether the score may be luck, and whether the answers are the teacher's."""
    found = []
    if gate.minimum_kept_low is not None and row["kept_interval"][0] < gate.minimum_kept_low:
        low, high = row["kept_interval"]
        asked = (
            f"{gate.minimum_kept_low:.1%} are asked of its lower end ({100 * (gate.minimum_kept_low - low):.2g} points more)"
        )
        found.append(f"keeps between {low:.1%} and {high:.1%} of the teacher's score, {asked}")
    if gate.minimum_agreement is not None and row["agreement"] < gate.minimum_agreement:
        short = 100 * (gate.minimum_agreement - row["agreement"])
        asked = f"{gate.minimum_agreement:.1%} are asked ({short:.2g} points more)"
        found.append(f"agrees with the teacher on {row['agreement']:.1%} of the texts, {asked}")
    return found


def _slices(row: dict[str, Any], teacher: dict[str, Any], gate: Requirements) -> list[str]:
    most = gate.maximum_slice_loss
    if most is None:
        return []
    return [
        f"is {100 * lost:.1f} points less right in the slice '{name}', "
        f"allowed are {100 * most:g} ({100 * (lost - most):.2g} less)"
        for name, lost in falls(row["slices"], teacher["slices"]).items()
        if lost > most
    ]
