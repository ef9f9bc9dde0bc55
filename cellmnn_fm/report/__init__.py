"""What is looked at: figures, and a page of them that opens without a network."""

from .page import write_report as write_report
