"""What all pages share: templates, security headers, addresses, words for numbers, files of `static`."""
