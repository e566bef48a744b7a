"""Groups of images: what is asked of more than one pair at once, from the registrations of its pairs."""
