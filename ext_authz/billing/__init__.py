"""From usage to bills: a price list, accounts, drafts that change, and final invoices that never do."""
