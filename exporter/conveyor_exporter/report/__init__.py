"""What people look at: tables of files and their differences, model cards with figures."""
