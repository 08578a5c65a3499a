"""Where samples come from: label.csv with features, folders of clips, the generated corpus, prepared Parquet."""
