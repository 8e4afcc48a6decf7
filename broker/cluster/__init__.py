"""The cluster as this broker sees it: the metadata image, topic administration, placement of leaders."""
