"""What a person compares: rows, layers and predictions, gathered from folders, as a page, Markdown and pictures."""
