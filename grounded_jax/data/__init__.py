"""Questions with passages: record files, the embedded world, demonstrations."""
