"""g2l: distil giga-scale pathology encoders into students that run where cancer is treated."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from g2l.data.module import SlideDataModule
    from g2l.data.views import Views
    from g2l.deploy.export import export
    from g2l.encoders.encoder import Encoder, create_encoder
    from g2l.errors import G2LError
    from g2l.slides.cohort import Cohort
    from g2l.slides.index import index
    from g2l.slides.sampling import Sampler
    from g2l.slides.slide import Slide
    from g2l.training.distiller import Distiller
    from g2l.training.terms import Cosine, LogSum

# Imported when first used: `import g2l` imports no torch.
_HOMES = {
    "Cohort": "slides.cohort",
    "Cosine": "training.terms",
    "Distiller": "training.distiller",
    "Encoder": "encoders.encoder",
    "G2LError": "errors",
    "LogSum": "training.terms",
    "Sampler": "slides.sampling",
    "Slide": "slides.slide",
    "SlideDataModule": "data.module",
    "Views": "data.views",
    "create_encoder": "encoders.encoder",
    "export": "deploy.export",
    "index": "slides.index",
}

__all__ = [
    "Cohort",
    "Cosine",
    "Distiller",
    "Encoder",
    "G2LError",
    "LogSum",
    "Sampler",
    "Slide",
    "SlideDataModule",
    "Views",
    "create_encoder",
    "export",
    "index",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module g2l has no attribute {name}")
    return getattr(import_module(f"g2l.{_HOMES[name]}"), name)
