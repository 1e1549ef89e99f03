"""What the `droptune` commands do; `droptune.cli` holds their words and options."""
