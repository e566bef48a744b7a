"""Visits of a subject: registered without bias to one of them, their volumes over time with errors."""

from nnreg.groups.longitudinal.study import Summary, follow_subjects
from nnreg.groups.longitudinal.subject import Followed, Settings, follow
from nnreg.groups.longitudinal.visits import Subject, Visit, subjects_in_folder, subjects_in_table, subjects_of_dataset

__all__ = ["Followed", "Settings", "Subject", "Summary", "Visit", "follow", "follow_subjects", "subjects_in_folder", "subjects_in_table", "subjects_of_dataset"]
