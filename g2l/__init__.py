"""g2l: distil giga-scale pathology encoders into students that run where cancer is treated."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from g2l.data.module import SlideDataModule
    from g2l.data.multicrop import MultiCrop
    from g2l.data.views import Views
    from g2l.deploy.export import export
    from g2l.encoders.encoder import Encoder, create_encoder
    from g2l.encoders.opening import open_encoder
    from g2l.errors import G2LError
    from g2l.evaluation.evaluate import evaluate
    from g2l.evaluation.report.make import report
    from g2l.slides.cohort import Cohort
    from g2l.slides.index import index
    from g2l.slides.sampling import Sampler
    from g2l.slides.slide import Slide
    from g2l.training.distiller import Distiller
    from g2l.training.labels import Labels
    from g2l.training.losses import MSE, Cosine, Expert, LogSum
    from g2l.training.selfdistil import KDE, Dino, Ibot, KoLeo

# Imported when first used: `import g2l` imports no torch.
_HOMES = {
    "Cohort": "slides.cohort",
    "Cosine": "training.losses",
    "Dino": "training.selfdistil",
    "Distiller": "training.distiller",
    "Encoder": "encoders.encoder",
    "Expert": "training.losses",
    "G2LError": "errors",
    "Ibot": "training.selfdistil",
    "KDE": "training.selfdistil",
    "KoLeo": "training.selfdistil",
    "Labels": "training.labels",
    "LogSum": "training.losses",
    "MSE": "training.losses",
    "MultiCrop": "data.multicrop",
    "Sampler": "slides.sampling",
    "Slide": "slides.slide",
    "SlideDataModule": "data.module",
    "Views": "data.views",
    "create_encoder": "encoders.encoder",
    "evaluate": "evaluation.evaluate",
    "export": "deploy.export",
    "index": "slides.index",
    "open_encoder": "encoders.opening",
    "report": "evaluation.report.make",
}

__all__ = [
    "KDE",
    "MSE",
    "Cohort",
    "Cosine",
    "Dino",
    "Distiller",
    "Encoder",
    "Expert",
    "G2LError",
    "Ibot",
    "KoLeo",
    "Labels",
    "LogSum",
    "MultiCrop",
    "Sampler",
    "Slide",
    "SlideDataModule",
    "Views",
    "create_encoder",
    "evaluate",
    "export",
    "index",
    "open_encoder",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module g2l has no attribute {name}")
    return getattr(import_module(f"g2l.{_HOMES[name]}"), name)
