"""The report of a suite: data, tables, statistics, figures and the page that shows them."""
