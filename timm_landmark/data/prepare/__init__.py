"""From Google Landmarks, or from your own photos, to a prepared data set."""
