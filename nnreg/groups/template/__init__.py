"""A template: the image in the middle of a group, in shape and in intensity, with the maps from it to every image."""

from nnreg.groups.template.build import build_template
from nnreg.groups.template.options import TemplateOptions

__all__ = ["TemplateOptions", "build_template"]
