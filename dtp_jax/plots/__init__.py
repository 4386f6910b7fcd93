"""Pictures of the arrays that they are given."""
