"""Update rules: how one step of the inner loop is taken."""
