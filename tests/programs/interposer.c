/* A library that interposes a function and passes the call on to the next library that has it. Compiled
 * with NAME, and with LAST where there is no next. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <string.h>

void curl_pass_on(char *trail) {
    strcat(trail, NAME);
#ifndef LAST
    void (*next)(char *) = (void (*)(char *))dlsym(RTLD_NEXT, "curl_pass_on");
    if (next)
        next(trail);
    else
        strcat(trail, "-nothing");
#endif
}

/* The same under a name that starts as the driver's do. */
void cuPassOn(char *trail) {
    strcat(trail, NAME);
#ifndef LAST
    void (*next)(char *) = (void (*)(char *))dlsym(RTLD_NEXT, "cuPassOn");
    if (next)
        next(trail);
    else
        strcat(trail, "-nothing");
#endif
}
