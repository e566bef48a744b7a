"""Labels of atlases brought onto other images, and fused there into one label map."""
