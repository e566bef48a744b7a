"""One thin module per command: parse, call one library function, show progress, turn errors into messages.

Imported by ``setup.py`` too, so it imports nothing.
"""

COMMANDS = {
    "init_dataset": "a raw dataset from a folder, table, BIDS, Learn2Reg, nnU-Net, DICOM",
    "plan_and_preprocess": "fingerprint, plans and preprocessed arrays of a dataset",
    "extract_fingerprint": "the fingerprint alone",
    "plan_experiment": "plans from a fingerprint; --explain says why",
    "preprocess": "the arrays of plans",
    "verify_dataset": "what is wrong with a raw dataset",
    "move_plans_between_datasets": "plan one dataset as another",
    "tune": "try alternatives to the planned settings on training pairs",
    "run": "what the plans recommend, from raw images to predictions",
    "train": "train a fold",
    "list": "what -tr and --set may name",
    "find_lr": "a learning rate range test",
    "import_": "a model, workflow or folder of another program",
    "predict": "apply a trained model to new images, or register them without one",
    "export_model": "a trained model as one file to share",
    "install_model": "a shared model into this workspace",
    "evaluate": "predictions against labels, landmarks and true fields",
    "report": "a page of results to look at and to show",
    "reproduce": "run what made a results folder once more, and compare",
    "view": "full volumes of results in the browser",
    "find_best_configuration": "which configuration or ensemble segments best",
    "ensemble": "mean probabilities of several predictions",
    "determine_postprocessing": "whether largest components help",
    "apply_postprocessing": "do what helps",
    "evaluate_simple": "two folders of label maps compared",
    "accumulate_crossval_results": "the validation of all folds joined",
    "register": "register one pair without training",
    "fuse": "labels of atlases fused on new images",
    "build_template": "the unbiased template of a group of images",
    "register_group": "all pairs of a group, with maps that agree around loops",
    "longitudinal": "visits of subjects: Jacobians and volumes over time, without bias to one visit",
    "series": "motion correction of a 4D series, strain of a cine",
    "apply_transform": "images, labels or points through transforms",
    "compose": "several transforms as one",
    "convert_transform": "between ITK, ANTs and Learn2Reg",
    "synthesize": "a synthetic dataset with exact truth",
    "demo": "all of it on synthetic data",
}
"""Modules of this package that are commands, to what each does."""


def command_name(module: str) -> str:
    """What the command of a module is called: a module cannot be called ``import``, a command can."""
    return module.rstrip("_")
