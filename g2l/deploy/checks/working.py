"""What the trials saw, judged. `cores` are those that this process may use."""

import re
from itertools import chain
from typing import Any

from g2l.deploy.checks.apart import Outcome
from g2l.deploy.checks.finding import Finding, sized
from g2l.deploy.checks.trials import DUE

LEAST_DIFFERENCE = 2.0  # grey levels, mean: what the readers' choice (slides.backends) lets pass
SLOW_JPEG = 40.0  # megapixels/s of one core; libjpeg-turbo with its SIMD code does 150 to 350
ONES = 36 * 27.0  # what trials._convolved gives
# What a library says when it cannot work, and what helps.
REMEDIES = (
    (r"libGL|libgthread|libSM|libXext", "apt install libgl1 libglib2.0-0, or take opencv-python-headless instead"),
    (r"libopenslide|openslide.*(DLL|dylib|shared)", "pip install openslide-bin"),
    (r"operator torchvision::", "install the torchvision that belongs to this torch: pip install -U torchvision torch"),
    (r"lib(cudart|cublas|cudnn|nvrtc|nccl)", "reinstall torch with its CUDA libraries, or its build for CPUs"),
    (r"SIGILL", "this processor lacks instructions that the build uses: install an older or a more general build"),
    (r"numpy\.core\.multiarray|_ARRAY_API|compiled using NumPy 1", "pip install -U 'numpy>=2' and the package named"),
    (r"GLIBC|GLIBCXX", "the system's C library is older than the package's: use a newer system or an older package"),
    (r"No space left", "free some disk space, or set TMPDIR to a larger folder"),
    (r"no answer within", "look for a hanging network disk; try again when the machine is less busy"),
)  # fmt: skip


def failed(name: str, outcome: Outcome, package: str = "") -> Finding:
    """A trial that did not come to its end; its remedy goes by what the error says."""
    missing = re.search(r"No module named '([\w.]+)'", outcome.error)
    if missing:
        remedy = f"pip install {package or missing[1].partition('.')[0]}"
    else:
        fitting = (remedy for pattern, remedy in REMEDIES if re.search(pattern, outcome.error))
        remedy = next(fitting, f"pip install --force-reinstall {package or name}")
    return Finding("problem", name, f"does not work: {outcome.error}", remedy)


def judge_slides(outcome: Outcome) -> list[Finding]:
    """OpenSlide, the reader of tiles beside it, and the speed of the JPEG decoder."""
    seen = outcome.seen
    if not seen:
        return [failed("slides", outcome)]
    findings = [Finding("ok", "openslide", f"{seen['openslide']} reads a drawn pyramid")]
    if int(seen["openslide"].split(".")[0]) < 4:
        findings = [
            Finding("warn", "openslide", f"{seen['openslide']} reads no DICOM slides", "pip install -U openslide-bin")
        ]
    if seen["difference"] > LEAST_DIFFERENCE or seen["spread"] < 1:
        detail = f"tiles of a drawn slide differ from OpenSlide's pixels by {seen['difference']:.1f} grey levels"
        findings.append(Finding("problem", "tiles", detail, "pip install --force-reinstall simplejpeg openslide-bin"))
    else:
        detail = f"read directly, {seen['difference']:.2f} grey levels from OpenSlide's pixels"
        findings.append(Finding("ok", "tiles", detail))
    rate = f"decodes {seen['megapixels_per_second']:.0f} megapixels/s on one core"
    if seen["megapixels_per_second"] < SLOW_JPEG:
        remedy = "is the machine busy, or simplejpeg built without SIMD? pip install --force-reinstall simplejpeg"
        return [*findings, Finding("warn", "libjpeg-turbo", rate, remedy)]
    return [*findings, Finding("ok", "libjpeg-turbo", rate)]


def judge_tiatoolbox(outcome: Outcome) -> list[Finding]:
    """The last of the readers."""
    if not outcome.seen:
        return [failed("tiatoolbox", outcome)]
    return [Finding("ok", "tiatoolbox", f"{outcome.seen['version']} reads a drawn pyramid")]


def judge_torch(outcome: Outcome, cores: float) -> list[Finding]:
    """PyTorch on the CPU, and on every GPU."""
    seen = outcome.seen
    if not seen:
        return [failed("torch", outcome)]
    built = f"built for CUDA {seen['cuda']}" if seen["cuda"] else "built for CPUs"
    said = f"{seen['version']}, {built}, {seen['threads']} threads"
    findings = [Finding("ok", "torch", said)]
    if seen["sum"] != ONES:
        wrong = f"{said}: a convolution gives {seen['sum']:g} instead of {ONES:g}"
        return [Finding("problem", "torch", wrong, "pip install --force-reinstall torch")]
    if seen["threads"] > max(1.0, cores) + 0.5:
        remedy = f"export OMP_NUM_THREADS={max(1, round(cores))}"
        findings = [Finding("warn", "torch", f"{said}, on {cores:g} cores: threads wait for each other", remedy)]
    return findings + ([_gpu(index, device) for index, device in enumerate(seen["devices"])] or [_without_gpu(seen)])


def _gpu(index: int, device: dict[str, Any]) -> Finding:
    name = f"{device['name']}, {sized(device['memory'])}"
    if device["error"] or device.get("sum") != ONES:
        why = device["error"] or f"a convolution gives {device.get('sum')} instead of {ONES:g}"
        return Finding("problem", f"gpu {index}", f"{name}: {why}", "install the build of torch made for this GPU")
    return Finding("ok", f"gpu {index}", f"{name}, {sized(device['free'])} free")


def _without_gpu(seen: dict[str, Any]) -> Finding:
    if seen["driver"] and not seen["cuda"]:
        detail = f"there is a driver ({seen['driver']}), but this torch is built for CPUs"
        return Finding("warn", "gpu", detail, "install torch's build for CUDA")
    if seen["driver"]:
        detail = "; ".join(seen["warnings"]) or f"there is a driver ({seen['driver']}), but torch sees no device"
        remedy = "update the driver, or install torch's build for an older CUDA; is CUDA_VISIBLE_DEVICES set?"
        return Finding("problem", "gpu", detail, remedy)
    return Finding("note", "gpu", "none: g2l fit would take days; export, verify and embed need none")


def judge_torchvision(outcome: Outcome) -> list[Finding]:
    """Whether torchvision and torch belong together."""
    if not outcome.seen:
        return [failed("torchvision", outcome)]
    if outcome.seen["kept"] != [0, 2]:
        detail = f"{outcome.seen['version']}: an operator of its own keeps {outcome.seen['kept']} instead of [0, 2]"
        return [Finding("problem", "torchvision", detail, "pip install --force-reinstall torchvision torch")]
    return [Finding("ok", "torchvision", f"{outcome.seen['version']}, its operators work with this torch")]


def judge_openvino(outcome: Outcome) -> list[Finding]:
    """OpenVINO, and which formats of a bundle this processor is fast with."""
    if not outcome.seen:
        return [failed("openvino", outcome)]
    seen = outcome.seen
    wrong = _wrong("openvino", seen)
    if wrong:
        return [wrong]
    has = [kind for kind in ("BF16", "FP16", "INT8") if kind in seen["capabilities"]]
    findings = [Finding("ok", "openvino", f"{seen['version']} on {seen['processor'].strip()}: FP32 {' '.join(has)}")]
    if "BF16" not in has:
        findings.append(Finding("note", "openvino bf16", "not on this processor: bundles run in fp32 or int8"))
    if "INT8" not in has:
        findings.append(Finding("note", "openvino int8", "not on this processor: bundles run in bf16 or fp32"))
    return findings


def judge_onnxruntime(outcome: Outcome) -> list[Finding]:
    """ONNX Runtime, which needs its CPU provider alone."""
    if not outcome.seen:
        return [failed("onnxruntime", outcome)]
    seen = outcome.seen
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in seen["providers"])
    return [_wrong("onnxruntime", seen) or Finding("ok", "onnxruntime", f"{seen['version']}, providers: {providers}")]


def _wrong(name: str, seen: dict[str, Any]) -> Finding | None:
    same = len(seen["result"]) == len(DUE)
    pairs = zip(chain(*seen["result"]), chain(*DUE), strict=False)
    if same and all(abs(found - due) <= 1e-5 for found, due in pairs):  # also no for a NaN
        return None
    detail = f"{seen['version']} computes {seen['result']} where {DUE} is right"
    return Finding("problem", name, detail, f"pip install --force-reinstall {name}")
