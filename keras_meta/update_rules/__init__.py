"""Update rules, which take the steps of the inner loop."""
