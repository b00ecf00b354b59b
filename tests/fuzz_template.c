/* SPDX-License-Identifier: MIT */
/* libFuzzer target: any bytes as a chat template, up to a NUL; behind it, JSON variables.  Budgets are small so that
 * what is slow shows as such. */
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char messages[] =
        "[{\"role\": \"user\", \"content\": \"<|a|> b\\n\"}, {\"role\": \"assistant\", "
        "\"content\": \"\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1.5}}}]}]";
    char *text = malloc(size + 1);
    if (!text)
        abort();
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    size_t n = strnlen(text, size);
    struct template_args a = {.messages = messages,
                              .kwargs = n < size ? text + n + 1 : NULL,
                              .bos_token = "<s>",
                              .now = "2026-08-15 13:45:07",
                              .limits = {.steps = 200000, .bytes = 16 << 20}};
    struct qn_text out;
    struct qn_error err;
    if (template_render(text, n, &a, &out, &err) == 0) {
        for (size_t i = 0; i < out.n; i++)
            if (out.special[i] > 1)
                abort();
        free(out.bytes);
        free(out.special);
    } else if (out.bytes || !err.text[0]) {
        abort();
    }
    free(text);
    return 0;
}
