"""SAM-I2V: promptable video segmentation on a small budget."""

from i2v.build_i2v import build_i2v, build_i2v_video_predictor
from i2v.i2v_video_predictor import I2VVideoPredictor

__all__ = ["I2VVideoPredictor", "build_i2v", "build_i2v_video_predictor"]
