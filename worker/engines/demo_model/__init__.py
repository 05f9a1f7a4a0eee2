"""The demo model: a few megabytes that llama.cpp runs, made by `train.py` from the text in `corpus.py`."""

from pathlib import Path

MODEL_PATH: Path = Path(__file__).with_name("demo.gguf")

__all__ = ["MODEL_PATH"]
