"""The networks of the zoo, how they are exported, and what runs on each of them."""
