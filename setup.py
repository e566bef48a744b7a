"""Package, entry points and extras of nnReg."""

from pathlib import Path

from setuptools import find_packages, setup

COMMANDS = (
    "verify_dataset",
    "synthesize",
    "extract_fingerprint",
    "plan_experiment",
    "move_plans_between_datasets",
    "preprocess",
    "plan_and_preprocess",
    "tune",
    "train",
    "list",
    "find_lr",
    "import_",  # a module cannot be called import, a command can
    "predict",
    "evaluate",
    "evaluate_simple",
    "ensemble",
    "find_best_configuration",
    "accumulate_crossval_results",
    "determine_postprocessing",
    "apply_postprocessing",
    "register",
    "apply_transform",
    "compose",
    "convert_transform",
    "demo",
)

setup(
    name="nnreg",
    version="0.1.0",
    description="Self-configuring deformable registration of medical images",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["nnreg", "nnreg.*"]),
    package_data={"nnreg": ["py.typed"]},
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "scipy>=1.11",
        "batchgenerators>=0.25",
        "batchgeneratorsv2>=0.3",
        "SimpleITK>=2.3",
        "blosc2>=3.0",
        "connected-components-3d>=3.12",
        "acvl-utils>=0.2.3",
        "dynamic-network-architectures>=0.4.1",
        "numba>=0.60",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "tifffile>=2023.7",
        "PyYAML>=6.0",
    ],
    extras_require={
        "zarr": ["zarr>=3.0"],
        "monai": ["monai>=1.5"],
        "tensorboard": ["tensorboard>=2.16"],
        "wandb": ["wandb>=0.17"],
        "dask": ["distributed>=2024.1"],
        "bench": ["antspyx", "picsl_greedy", "itk-elastix", "convexAdam", "monai"],
        "dev": ["pytest>=8", "ruff>=0.6", "mypy>=1.11", "types-PyYAML", "hypothesis>=6", "zarr>=3.0; python_version >= '3.11'"],
    },
    entry_points={"console_scripts": [f"nnreg_{name.rstrip('_')} = nnreg.cli.{name}:main" for name in COMMANDS]},
)
