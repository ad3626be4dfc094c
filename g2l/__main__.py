"""python -m g2l VERB: the one place that reads the command line, prints, and decides the exit code."""

import os
import sys
from importlib import import_module

from g2l import __version__
from g2l.errors import G2LError

# Verbs that are methods of the Trainer; the others name a function, imported when it is called.
TRAINER_VERBS = {
    "fit": "distil a student (--config YAML)",
    "validate": "loss and CKA of a checkpoint on held-out patients",
    "test": "the same on the test part of the split",
    "predict": "features of a checkpoint's student, HDF5 per slide (--config YAML --ckpt_path FILE)",
    "cache": "teacher embeddings of patches that repeat, for model.cache (--config YAML --out FOLDER)",
}
VERBS = {
    "index": ("g2l.slides.index:index", "slides -> cohort: masks, contact sheet, what was rejected and why"),
    "evaluate": ("g2l.evaluation.evaluate:evaluate", "encoders x tasks -> results (--config TASKS.yaml)"),
    "report": ("g2l.evaluation.report.make:report", "results -> report.html, metrics.json, metrics.csv (--out FOLDER)"),
    "export": ("g2l.deploy.export:export", "checkpoint or encoder -> bundle: timm, ONNX, OpenVINO, card, embed.pyz"),
    "verify": ("g2l.deploy.runtime.verify:verify", "bundle -> its hashes, test vector and parity on this machine"),
    "embed": ("g2l.deploy.runtime.embed:embed", "bundle x slides -> features, one HDF5 for each slide (--out FOLDER)"),
    "heatmap": ("g2l.deploy.heatmap.verb:heatmap", "features x slide -> overlay PNG and GeoJSON (--out FOLDER)"),
    "doctor": ("g2l.deploy.doctor:doctor", "what works on this machine, and what to do about the rest"),
}


def usage() -> str:
    """What `python -m g2l --help` prints."""
    verbs = TRAINER_VERBS | {name: text for name, (_, text) in VERBS.items()}
    lines = "\n".join(f"  {name:<10}{text}" for name, text in verbs.items())
    return (
        f"g2l {__version__}: distil giga-scale pathology encoders into students that run anywhere\n\n"
        f"usage: python -m g2l VERB [options]\n\n{lines}\n\n"
        "python -m g2l VERB --help describes one verb; G2L_DEBUG=1 shows the traceback of an error."
    )


def run(verb: str, arguments: list[str]) -> object:
    """Run one verb. Its result says, as text, what it has to say at its end; some have an `exit_code`."""
    if verb in TRAINER_VERBS:
        from g2l.cli import main as fit

        return fit([verb, *arguments])
    module, name = VERBS[verb][0].split(":")
    from g2l.verbs import call

    return call(getattr(import_module(module), name), verb, arguments)


def message_of(error: G2LError) -> str:
    """The one line; torch wraps an error of a loader's worker process into the text of its traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text


def exit_code_of(end: BaseException) -> int:
    """As a shell counts: 130 after Ctrl-C, 143 after SIGTERM (both of which Lightning turns into plain exits)."""
    if isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt):
        return 130
    if type(end).__name__ == "SIGTERMException":
        return 143
    code = getattr(end, "code", 0)
    return code if isinstance(code, int) else int(code is not None)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0; what the result of a verb says (1: something failed); 2 for a mistake of the user's, told in one
    line. A traceback only for a fault of ours.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(usage())
        return 0
    if verb == "--version":
        print(__version__)
        return 0
    if verb not in TRAINER_VERBS and verb not in VERBS:
        known = ", ".join([*TRAINER_VERBS, *VERBS])
        print(f"g2l: error: unknown verb {verb}; known are {known}", file=sys.stderr)
        return 2
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports home when something imports it
    try:
        result = run(verb, arguments[1:])
    except G2LError as error:
        if os.environ.get("G2L_DEBUG"):
            raise
        print(f"g2l: error: {message_of(error)}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as end:
        code = exit_code_of(end)
        if code > 128:
            again = "the same command with --ckpt_path last" if verb == "fit" else "the same command"
            print(f"g2l: interrupted; {again} goes on where it stopped", file=sys.stderr)
        return code
    if str(result):
        print(result)
    return int(getattr(result, "exit_code", 0))


if __name__ == "__main__":
    sys.exit(main())
