"""What people look at: tables, colours, grids, pages, bars."""
