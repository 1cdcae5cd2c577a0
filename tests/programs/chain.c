/* Calls functions that several preloaded libraries interpose, and says which of them the call reached. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdio.h>

int main(void) {
    static const char *const names[] = {"curl_pass_on", "cuPassOn"};
    for (int i = 0; i < 2; i++) {
        char trail[64] = "";
        void (*first)(char *) = (void (*)(char *))dlsym(RTLD_DEFAULT, names[i]);
        if (first) first(trail);
        printf("%s %s\n", names[i], trail);
    }
    return 0;
}
