"""The zoo's results as a markdown table, and what they amount to."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from zoo_models.case import Case

MAX_REL_ERROR = 1e-5
LEEWAY = 0.02
"""How far above Torch-Pruning the MACs kept may be."""
TRANSIENT = "counter: "
"""An error that starts so says nothing of the peer: the result could not be counted."""

Row = dict[str, Any]

COLUMNS = {
    "model": "{}", "exporter": "{}", "opset": "{}", "form": "{}", "nodes": "{}", "groups": "{}", "macs_kept": "{:.3f}",
    "params_kept": "{:.3f}", "max_rel_error": "{:.0e}", "core_seconds": "{:.2f}", "slim_seconds": "{:.1f}",
    "peak_mib": "{:.0f}", "tp_macs": "{:.3f}", "tp_heads_macs": "{:.3f}", "onnxsim_params": "{:.3f}",
    "onnxsim_runs": "{}", "frozen_share": "{:.2f}", "frozen_by": "{}", "error": "{}",
}  # fmt: skip
HEADINGS = {
    "macs_kept": "MACs kept", "params_kept": "params kept", "core_seconds": "analysis + rewriting s",
    "slim_seconds": "whole s", "peak_mib": "peak MiB", "tp_macs": "Torch-Pruning MACs",
    "tp_heads_macs": "with num_heads", "onnxsim_params": "onnxsim params", "onnxsim_runs": "onnxsim runs",
    "frozen_share": "frozen", "frozen_by": "mostly by",
}  # fmt: skip


def row_of(case: Case, results: Mapping[tuple[str, str], Row], peers_case: Case) -> Row:
    """All that is known of a case; the peers' figures come from the form of the network that they ran on."""
    exported = results.get((case.name, "export"), {})
    ours = results.get((case.name, "onnxprune"), {})
    row: Row = {
        "name": case.name, "model": f"{case.family} {case.model}", "family": case.family, "exporter": case.exporter,
        "opset": case.opset, "form": case.form,
    }  # fmt: skip
    row |= {key: value for key, value in (exported | ours).items() if key not in ("step", "error")}
    row["export_error"] = exported.get("error", None if exported else "not run")
    row["error"] = ours.get("error", None if ours or row["export_error"] else "not run")
    if row["error"] is None and not row.get("max_rel_error", 0.0) <= MAX_REL_ERROR:
        row["error"] = f"max_rel_error {row['max_rel_error']:.1e}"
    locks = row.get("frozen") or [{"op": None}]
    row["frozen_by"] = locks[0]["op"]
    for step, short in (("torch_pruning", "tp"), ("torch_pruning_heads", "tp_heads"), ("onnxsim", "onnxsim")):
        found = results.get((peers_case.name, step), {})
        row[f"{short}_macs"], row[f"{short}_params"] = found.get("macs_kept"), found.get("params_kept")
        row[f"{short}_error"] = found.get("error")
        if short == "onnxsim" and found and not found.get("error"):
            row["onnxsim_runs"] = "no" if found["runs"] else "yes"
            row["onnxsim_says"] = found["runs"]
    return row


def table(rows: Sequence[Row]) -> str:
    """The rows as one markdown table."""
    lines = [
        "| " + " | ".join(HEADINGS.get(key, key) for key in COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        shown = row | {
            "error": (row["export_error"] and f"export: {row['export_error']}"[:120]) or row["error"]
        }
        cells = [
            "" if shown.get(key) is None else form.format(shown[key]).replace("|", "\\|").replace("\n", " ")
            for key, form in COLUMNS.items()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def above(row: Row) -> float:
    """By how much the row keeps more MACs than Torch-Pruning where that one came to an end; 0 if it did not."""
    theirs = [row[key] for key in ("tp_macs", "tp_heads_macs") if row.get(key) is not None]
    return row["macs_kept"] - min(theirs) if theirs and row.get("macs_kept") is not None else 0.0


def summary(rows: Sequence[Row]) -> Row:
    """What the zoo amounts to, as one JSON object."""
    exported = [row for row in rows if row["export_error"] is None]
    exact = [row for row in exported if row["error"] is None]
    networks = {(row["family"], row["model"]): row for row in reversed(exported)}.values()
    return {
        "exports": len(rows),
        "exported_and_run": len(exported),
        "networks": len(networks),
        "slimmed_exactly": len(exact),
        "share_slimmed_exactly": len(exact) / max(len(exported), 1),
        "median_macs_kept": median([row["macs_kept"] for row in exact] or [float("nan")]),
        "worst_rel_error": max((row["max_rel_error"] for row in exact), default=None),
        "on_the_same_decisions": sum("undecided" in row.get("verified", {}) for row in exact),
        "in_double_precision": sum("single" in row.get("verified", {}) for row in exact),
        "torch_pruning_succeeds": sum(row["tp_macs"] is not None for row in networks),
        "torch_pruning_succeeds_with_heads": sum(
            row["tp_macs"] is not None or row["tp_heads_macs"] is not None for row in networks
        ),
        "onnxsim_succeeds": sum(row.get("onnxsim_runs") == "yes" for row in networks),
        "median_params_kept_by_onnxsim": median(
            [row["onnxsim_params"] for row in networks if row["onnxsim_params"] is not None] or [float("nan")]
        ),
        "above_torch_pruning": {row["name"]: round(above(row), 4) for row in exact if above(row) > LEEWAY},
        "failures": {row["name"]: row["error"] for row in exported if row["error"] is not None},
        "not_exported": {row["name"]: row["export_error"] for row in rows if row["export_error"] is not None},
    }


def in_words(figures: Row) -> str:
    """The summary for a reader."""
    lines = [
        f"{figures['exported_and_run']} of {figures['exports']} exports ({figures['networks']} networks) were written "
        f"and run in onnxruntime; {figures['slimmed_exactly']} of them "
        f"({100 * figures['share_slimmed_exactly']:.1f} %) were slimmed with max_rel_error <= {MAX_REL_ERROR:.0e}; "
        f"median MACs kept {figures['median_macs_kept']:.3f}. Proven on the same decisions: "
        f"{figures['on_the_same_decisions']}, in double precision: {figures['in_double_precision']}.",
        f"Of the networks, Torch-Pruning finishes {figures['torch_pruning_succeeds']} with its defaults and "
        f"{figures['torch_pruning_succeeds_with_heads']} told of heads where that helps; onnxsim writes "
        f"{figures['onnxsim_succeeds']} that run, median parameters kept "
        f"{figures['median_params_kept_by_onnxsim']:.3f}.",
    ]
    for key, title in (
        ("above_torch_pruning", f"More than {LEEWAY} above Torch-Pruning"),
        ("failures", "Failures"),
        ("not_exported", "Not exported, or not run by onnxruntime"),
    ):
        lines += ["", f"{title}: {len(figures[key])}"] + [
            f"- {name}: {what}" for name, what in figures[key].items()
        ]
    return "\n".join(lines)
