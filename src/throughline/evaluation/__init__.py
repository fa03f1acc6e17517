"""Evaluation: asks the acceptance set, scores answers with intervals, compares precisions, decides on one."""
