/* A TFLite delegate for tests, in the binary interface that external delegates have.
 *
 * Option `mode`: `none` takes no part of a network, so that the interpreter runs it all; `prepare` fails when a network
 * is prepared; `create` cannot be made at all.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Networks whose tensors change their size are taken as well. */
enum { dynamic_tensors = 1 };

typedef enum { ok = 0, failed = 1 } status;

/* The fields of TfLiteDelegate in their order; those that stay NULL are never called. */
struct delegate {
  void *data;
  status (*prepare)(void *context, struct delegate *self);
  void *copy_from_buffer;
  void *copy_to_buffer;
  void *free_buffer;
  int64_t flags;
  void *opaque_builder;
};

static status take_nothing(void *context, struct delegate *self) {
  (void)context;
  (void)self;
  return ok;
}

static status refuse(void *context, struct delegate *self) {
  (void)context;
  (void)self;
  return failed;
}

struct delegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *values, size_t count,
                                               void (*report)(const char *)) {
  const char *mode = "none";
  for (size_t i = 0; i < count; i++) {
    if (strcmp(keys[i], "mode") == 0) mode = values[i];
  }
  if (strcmp(mode, "create") == 0) {
    report("no accelerator is plugged in");
    return NULL;
  }
  struct delegate *made = calloc(1, sizeof *made);
  if (made == NULL) return NULL;
  made->prepare = strcmp(mode, "prepare") == 0 ? refuse : take_nothing;
  made->flags = dynamic_tensors;
  return made;
}

void tflite_plugin_destroy_delegate(struct delegate *made) { free(made); }
