"""Many devices (`mesh`) and many processes (`processes`)."""
