// Lets the package declare functions whose body is elsewhere (sbrk).
