"""wsistream's OpenSlide backend with a small tile cache, for peers.py and loaders.py; imported where wsistream is."""

import openslide
from peers import CACHE_BYTES
from wsistream.backends import OpenSlideBackend  # pyright: ignore[reportMissingImports]


class CappedBackend(OpenSlideBackend):
    """So that small slides give what full-size slides give, see peers.CACHE_BYTES."""

    def open(self, path: str) -> None:
        """Open a slide."""
        super().open(path)
        self._require_open_slide(self._slide).set_cache(openslide.OpenSlideCache(CACHE_BYTES))
