"""Where samples come from: MMSA's pickles, tables, folders of clips, the generated corpus, prepared Parquet."""
