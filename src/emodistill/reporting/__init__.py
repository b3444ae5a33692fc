"""From results to what people look at: tables and figures in every format, and one page that holds them all."""
