"""Package, entry points and extras of nnReg."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent))  # builds run this file from elsewhere
from nnreg.cli import COMMANDS, command_name

setup(
    name="nnreg",
    version="0.1.0",
    description="Self-configuring deformable registration of medical images",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The nnReg developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["medical imaging", "image registration", "deformable registration", "segmentation", "deep learning", "nnU-Net", "MRI", "CT"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Healthcare Industry",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["nnreg", "nnreg.*"]),
    package_data={"nnreg": ["py.typed", "training/importers/templates/*.yaml", "report/templates/*", "api/*.yaml"]},
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "scipy>=1.11",
        "batchgenerators>=0.25",
        "batchgeneratorsv2>=0.3",
        "SimpleITK>=2.4",
        "blosc2>=3.0",
        "h5py>=3.8",
        "isal>=1.7",
        "connected-components-3d>=3.12",
        "acvl-utils>=0.2.3",
        "dynamic-network-architectures>=0.4.1",
        "numba>=0.60",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "tifffile>=2023.7",
        "PyYAML>=6.0",
        "shtab>=1.6",
        "safetensors>=0.4",
        "Jinja2>=3.1",
        "pillow>=10.0",
    ],
    extras_require={
        "zarr": ["zarr>=3.0", "tifffile>=2025.5.26"],
        "monai": ["monai>=1.5"],
        "tensorboard": ["tensorboard>=2.16"],
        "wandb": ["wandb>=0.17"],
        "onnx": ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.18"],
        "interop": ["nibabel>=5", "nitransforms>=25"],
        "docs": ["mkdocs-material>=9.5"],
        "dask": ["distributed>=2024.1"],
        "napari": ["napari>=0.5"],
        "browser": ["playwright>=1.45"],
        "bench": ["antspyx", "picsl_greedy", "itk-elastix", "convexAdam", "monai"],
        "dev": [
            *("pytest>=8", "pytest-xdist>=3.5", "ruff>=0.6", "mypy>=1.11", "types-PyYAML"),
            *("hypothesis>=6", "distributed>=2024.1", "zarr>=3.0; python_version >= '3.11'", "tifffile>=2025.5.26; python_version >= '3.11'"),
        ],
    },
    entry_points={
        "console_scripts": ["nnreg = nnreg.cli.umbrella:main", *(f"nnreg_{command_name(module)} = nnreg.cli.{module}:main" for module in COMMANDS)],
        "napari.manifest": ["nnreg = nnreg.api:napari.yaml"],
    },
)
