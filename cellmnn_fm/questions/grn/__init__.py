"""Which gene drives which: networks, how they are estimated, compared and scored."""
