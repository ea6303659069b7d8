"""The only code that calls user functions, sleeps or awaits them: one driver a colour."""
